"""Equalise: the ranges of two layers' weights evened out between them, where what lies between passes a scale on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.site import Role, Site, Skipped
from qonnx_pipe.graph.fold import obstacle, weights_around

BETWEEN = (Role.ATTENTION_CONTEXT, Role.FFN_ACTIVATION)
"""Sites between two linear layers of one branch: value projection and output projection, the two of the FFN."""


def equalising(model: ir.Model, sites: Iterable[Site]) -> dict[Site, Affine]:
    """Scales for those of `sites` that lie between two linear layers and can be folded; nothing is changed.

    Cross-layer equalisation, Nagel et al. 2019, eq. 11: s_i = √(r1_i·r2_i)/r2_i, r1_i being the largest magnitude of
    column i of the first weight and r2_i that of row i of the second; both become √(r1_i·r2_i). s_i is 1 where a
    range is 0. `graph.fold.fold` applies them.
    """
    found: dict[Site, Affine] = {}
    for site in sites:
        if site.role in BETWEEN and not obstacle(model, site):
            first, second = weights_around(model, site)
            r1, r2 = np.abs(first).max(axis=0), np.abs(second).max(axis=1)
            used = (r1 > 0) & (r2 > 0)
            scale = np.ones(len(r1), np.float32)
            scale[used] = np.sqrt(r1[used] * r2[used]) / r2[used]
            found[site] = Affine.scaling(scale)
    return found


def unequal(model: ir.Model, sites: Iterable[Site]) -> tuple[Skipped, ...]:
    """The pairs of layers that cannot be equalised, by the site between them, and why."""
    reasons = {site.id: obstacle(model, site) for site in sites if site.role in BETWEEN}
    return tuple(Skipped(site, f"not equalised: {reason}") for site, reason in reasons.items() if reason)
