"""Encode activations: what a plan needs from calibration, and statistics → Encoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerEmbedding, PerEmbeddingGroup, PerTensor
from qonnx_pipe.core.numerics import scale_and_zero_point
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import Request, Requests, SiteStatistics
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.expand import expanded
from qonnx_pipe.observers.groups import resolve_groups
from qonnx_pipe.observers.protocol import Requirement

SAMPLED_TOKENS = 512
"""Tokens to keep where outputs are compared; with twice as many MiniLM's SQNR is the same within 0.1 dB."""
CALIBRATE_TOKENS = f"`qpipe calibrate --tokens {SAMPLED_TOKENS}`"
"""The command that keeps them, for whoever misses them."""


def requests(plan: QuantPlan) -> Requests:
    """What the plan needs of its activations, in its order: one request for each that it quantizes or samples.

    A plan that compares outputs (bias correction, AdaRound, GPTQ, a fold, an expansion, groups whose form is open, an
    error over tokens) needs whole tokens of every linear's input, quantized or not, and of every site that asks itself.
    Folds may move dimensions of other tensors too: those whose range needs a histogram take a new one from tokens.
    """
    compares = plan.bias_correction or any(_compares(entry.spec) for entry in plan.entries)
    folds = plan.equalise or any(_moves(entry.spec) for entry in plan.entries)
    wishes: list[Request] = []
    for entry in plan.entries:
        if entry.site.is_weight:
            continue
        sampled = compares and (bool(entry.site.feeds) or _compares(entry.spec))
        sampled |= folds and not entry.site.pairwise and _needs(entry.spec) == "histogram"
        if entry.spec is not None or sampled:
            wishes.append(_request(entry.site.id, entry.spec, SAMPLED_TOKENS if sampled else 0))
    return Requests(tuple(wishes))


def _compares(spec: QuantSpec | None) -> bool:
    """Whether something of a quantizer is chosen by what it does to whole tokens."""
    if spec is None:
        return False
    by_error = isinstance(spec.granularity, PerEmbeddingGroup) and spec.granularity.boundaries == "error"
    expands = spec.form == "expand"
    return _moves(spec) or expands or by_error or spec.rounds_by_data or spec.range == "cross_entropy"


def _moves(spec: QuantSpec | None) -> bool:
    """Whether a quantizer is folded into the constants around it, or may be."""
    if spec is None:
        return False
    return spec.folds or (spec.form == "auto" and isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup))


def _needs(spec: QuantSpec | None) -> Requirement:
    """What the range method of a quantizer reads besides extremes."""
    return "minmax" if spec is None else OBSERVERS[spec.range].requires


def _request(site: str, spec: QuantSpec | None, samples: int) -> Request:
    if spec is None:
        return Request(site, samples=samples)
    grouped = isinstance(spec.granularity, PerEmbedding | PerEmbeddingGroup) or spec.form == "expand"
    histogram = ("embedding" if grouped else "tensor") if _needs(spec) == "histogram" else None
    return Request(site, running=_needs(spec) == "running", histogram=histogram, samples=samples)


def encode_activation(
    statistics: SiteStatistics, spec: QuantSpec, order: Sequence[int] | None = None, *, site: str
) -> Encoding:
    """Encoding of an activation [..., d] from what calibration saw of it.

    `order` is the order of dimensions that groups with `permute="range"` share with other sites; None: their own.
    Raises NumericsError, naming `site`, when NaN, infinity or nothing at all was seen; ValueError for a granularity
    that activations do not have, or statistics that the spec's range method lacks.
    """
    _refuse_not_finite(statistics, site)
    if spec.form == "expand":
        return expanded(statistics, spec)
    groups: EmbeddingGroups | None = None
    match spec.granularity:
        case PerTensor():
            pass
        case PerEmbedding() | PerEmbeddingGroup():
            groups = resolve_groups(spec.granularity, statistics.minmax, order)
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
