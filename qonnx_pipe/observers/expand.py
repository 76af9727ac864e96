"""Expand: which outlier dimensions get how many further columns of codes, so that the tensor's step is smallest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import scale_and_zero_point
from qonnx_pipe.core.qtype import QType
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import SiteStatistics
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.protocol import Bound, Range

LARGEST_SHARE = 1 / 8
"""Columns at most, as a share of the dimensions: beyond it the longer MatMul costs more than it gains."""

BISECTIONS = 50
"""Halvings of the step's logarithm, which spans some twenty octaves: the step is found to one part in 10^7 at least."""


def budget(columns: int, width: int) -> int:
    """How many of the wanted `columns` a tensor of `width` dimensions may have."""
    return min(columns, int(width * LARGEST_SHARE))


def expanded(statistics: SiteStatistics, spec: QuantSpec) -> Encoding:
    """The encoding of least step that holds the range of every dimension with `spec.columns` further columns.

    The ranges are those that the spec's range method gives each dimension on its own. Where columns gain nothing, or
    the tensor is too narrow for one, the encoding is PerTensor. Raises ValueError when the range method lacks a
    statistic.
    """
    low, high = _of_dimensions(statistics, spec)
    columns = budget(spec.columns, len(low))
    plain = scale_and_zero_point(low.min(), high.max(), spec.dtype, symmetric=spec.symmetric)
    scale, zero_point = smallest_step(low, high, columns, spec.dtype, zero_points=plain[1] if spec.symmetric else None)
    layout = windows(low, high, scale, zero_point, spec.dtype)
    if scale >= plain[0] or not layout.places:
        return Encoding(spec.dtype, PerTensor(), *plain)
    return Encoding(spec.dtype, layout, scale, zero_point)


def plain_step(statistics: SiteStatistics, spec: QuantSpec) -> float:
    """The step that the same ranges need without columns."""
    low, high = _of_dimensions(statistics, spec)
    return float(scale_and_zero_point(low.min(), high.max(), spec.dtype, symmetric=spec.symmetric)[0])


def _of_dimensions(statistics: SiteStatistics, spec: QuantSpec) -> Range:
    """The range of each dimension on its own, both ends of shape (d,)."""
    width = len(statistics.minmax.minimum)
    alone = EmbeddingGroups((1,) * width, tuple(range(width)))
    return OBSERVERS[spec.range].range(statistics, spec, alone)


def smallest_step(
    low: Bound, high: Bound, columns: int, dtype: QType, *, zero_points: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Scale and zero point, both of shape (), of the finest per-tensor quantizer that `columns` columns make complete.

    `low`, `high`: shape (d,), low ≤ 0 ≤ high. For a zero point, the columns that a step needs become fewer as it grows:
    so the least step of each zero point is bisected, all at once, and the least of them all taken. No more than
    `columns` dimensions reach out of the tensor's own window on either side, so that only the outermost count.
    `zero_points`: those to choose from; left out, every code.
    """
    codes = np.arange(dtype.qmin, dtype.qmax + 1) if zero_points is None else np.atleast_1d(zero_points)
    places = codes.astype(np.float64)
    outer_low, outer_high = np.sort(low)[: columns + 1], np.sort(high)[::-1][: columns + 1]

    def too_fine(step: Bound) -> npt.NDArray[np.bool_]:
        below, above = _counts(outer_low, outer_high, step[:, None], places[:, None], dtype)
        return np.asarray((below.sum(axis=1) + above.sum(axis=1)) > columns)

    reach = max(float(high.max()), float(-low.min()), float(np.finfo(np.float32).tiny) * dtype.levels)
    coarse = np.full(len(places), 2.0 * reach)
    fine = np.full(len(places), reach / (2.0 * dtype.levels * (columns + 1)))
    for _ in range(BISECTIONS):
        middle = np.sqrt(fine * coarse)
        missed = too_fine(middle)
        fine, coarse = np.where(missed, middle, fine), np.where(missed, coarse, middle)
    best = int(np.argmin(coarse))
    scale = np.float32(coarse[best])
    if too_fine(np.full(len(places), float(scale)))[best]:  # rounded to the wrong side
        scale = np.nextafter(scale, np.float32(np.inf))
    return np.asarray(scale, np.float32), np.asarray(places[best], np.int32)


def windows(low: Bound, high: Bound, scale: npt.ArrayLike, zero_point: npt.ArrayLike, dtype: QType) -> Windows:
    """The columns that ranges [low, high], shape (d,), need at a step, dimension by dimension, nearest window first."""
    below, above = _counts(low, high, np.asarray(scale, np.float64), np.asarray(zero_point, np.float64), dtype)
    columns = [
        (dimension, sign * place)
        for dimension, counts in enumerate(zip(above, below, strict=True))
        for sign, count in zip((1, -1), counts, strict=True)
        for place in range(1, int(count) + 1)
    ]
    return Windows(len(low), tuple(dimension for dimension, _ in columns), tuple(place for _, place in columns))


def _counts(low: Bound, high: Bound, scale: Bound, zero_point: Bound, dtype: QType) -> tuple[Bound, Bound]:
    """Windows that are needed below and above the tensor's own; half a step beyond an end still rounds to it."""
    above = np.ceil((high / scale + zero_point - dtype.qmax - 0.5) / dtype.levels)
    below = np.ceil((dtype.qmin - 0.5 - zero_point - low / scale) / dtype.levels)
    return np.maximum(below, 0.0), np.maximum(above, 0.0)
