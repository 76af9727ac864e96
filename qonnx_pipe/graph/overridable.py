"""Overridable: a model whose weights can be fed anew with each run, so that one session serves many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.site import EMBEDDING_TABLES, Site
from qonnx_pipe.graph import io
from qonnx_pipe.graph.walk import linears


@dataclass(frozen=True)
class Overridable:
    """A model's file, and the sites whose values its initializers hold as [out, in]."""

    path: Path
    turned: frozenset[str]

    def stored(self, site: Site, array: FloatArray) -> FloatArray:
        """A weight [in, out] or table as its initializer has it."""
        return np.ascontiguousarray(array.T if site.id in self.turned else array, np.float32)

    def inputs(self, weights: Mapping[Site, FloatArray]) -> dict[str, FloatArray]:
        """Graph inputs for one run with other `weights` ([in, out], or tables)."""
        return {site.tensor: self.stored(site, array) for site, array in weights.items()}


def make_overridable(model: Path, sites: Sequence[Site], target: Path) -> Overridable:
    """Write `model` to `target` with the weights and tables of `sites` as inputs that default to their own values.

    Raises what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    layers = {linear.name: linear for linear in linears(loaded.graph)}
    for site in sites:
        loaded.graph.inputs.append(loaded.graph.initializers[site.tensor])
    io.save(loaded, target)
    turned = (site.id for site in sites if site.role not in EMBEDDING_TABLES and layers[site.feeds[0]].transposed)
    return Overridable(target, frozenset(turned))
