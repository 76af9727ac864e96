"""Encode activations: what a plan needs from calibration, and statistics → Encoding."""

from __future__ import annotations

import numpy as np

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.numerics import scale_and_zero_point
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import Request, Requests, SiteStatistics
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.groups import resolve_groups


def requests(plan: QuantPlan) -> Requests:
    """One request for each activation that the plan quantizes, in the plan's order."""
    return Requests(
        tuple(
            _request(entry.site.id, entry.spec)
            for entry in plan.entries
            if entry.spec is not None and not entry.site.is_weight
        )
    )


def _request(site: str, spec: QuantSpec) -> Request:
    grouped = isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup)
    needs = OBSERVERS[spec.range].requires
    histogram = ("embedding" if grouped else "tensor") if needs == "histogram" else None
    return Request(site, running=needs == "running", histogram=histogram)


def encode_activation(
    statistics: SiteStatistics, spec: QuantSpec, groups: EmbeddingGroups | None = None, *, site: str
) -> Encoding:
    """Encoding of an activation [..., d] from what calibration saw of it.

    `groups` is a layout that another site decided (a shared permutation); None resolves the spec's own granularity.
    Raises NumericsError, naming `site`, when NaN, infinity or nothing at all was seen; ValueError for a granularity
    that activations do not have, or statistics that the spec's range method lacks.
    """
    _refuse_not_finite(statistics, site)
    match spec.granularity:
        case PerTensor():
            pass
        case PerEmbedding() | PerEmbeddingGroup():
            groups = groups or resolve_groups(spec.granularity, statistics.minmax)
        case other:
            raise ValueError(f"{site}: activations have no granularity {other}")
    low, high = OBSERVERS[spec.range].range(statistics, spec, groups)
    scale, zero_point = scale_and_zero_point(low, high, spec.dtype, symmetric=spec.symmetric)
    return Encoding(spec.dtype, groups or PerTensor(), scale, zero_point)


def _refuse_not_finite(statistics: SiteStatistics, site: str) -> None:
    seen = [statistics.minmax.minimum, statistics.minmax.maximum]
    if statistics.running is not None:
        seen += [statistics.running.minimum, statistics.running.maximum]
    if not all(np.all(np.isfinite(bound)) for bound in seen):
        raise NumericsError(
            "calibration saw NaN or infinity in this activation",
            where=site,
            fix="check that the float model gives finite outputs on the calibration data, "
            "or leave this site float with a rule",
        )
