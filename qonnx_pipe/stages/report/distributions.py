"""Distributions: the values that calibration saw at a quantized site, and the range that the encoding kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from qonnx_pipe.charts import svg
from qonnx_pipe.charts.svg import Axis
from qonnx_pipe.core.changes import Change
from qonnx_pipe.core.encoding import Encoding, Windows
from qonnx_pipe.core.statistics import CalibrationTable, SiteStatistics

BINS = 60
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """One site: values between `low` and `high`, the ends of what its codes reach, the share that is cut off.

    `folded`: the values are those behind the fold, which the encoding is of. `scales`: how many the site has; the ends
    are then the outermost. `columns`: how many more go on beyond the ends, for single dimensions. `share` None where
    only extremes were kept, or where such columns hold what is outside.
    """

    site: str
    low: float
    high: float
    ends: tuple[float, float]
    scales: int
    columns: int
    folded: bool
    share: float | None
    drawing: Markup


def summarise(
    table: CalibrationTable, encodings: Mapping[str, Encoding], changed: Mapping[str, Change]
) -> tuple[Distribution, ...]:
    """Every quantized activation of which calibration kept tokens, a histogram, or at least the extremes."""
    return tuple(_distributions(table, encodings, changed))


def _distributions(
    table: CalibrationTable, encodings: Mapping[str, Encoding], changed: Mapping[str, Change]
) -> Iterator[Distribution]:
    for site, encoding in encodings.items():
        if site not in table.sites:
            continue
        change = changed.get(site, Change())
        seen = _changed(table.sites[site], change)
        low, high = float(seen.minmax.minimum.min()), float(seen.minmax.maximum.max())
        ends = _ends(encoding)
        axis = Axis.around([low, high, *ends])
        counts, share = _counts(seen, axis, ends, step=float(encoding.scale.max()))
        drawing = svg.profile(axis, counts, ends) if counts is not None else svg.extent(axis, (low, high), ends)
        columns = len(encoding.granularity.dimensions) if isinstance(encoding.granularity, Windows) else 0
        share, folded = None if columns else share, change.fold is not None
        yield Distribution(site, low, high, ends, encoding.scale.size, columns, folded, share, drawing)


def _changed(seen: SiteStatistics, change: Change) -> SiteStatistics:
    """Extremes and tokens as the quantized graph has them; a histogram of another tensor is left out."""
    if change == Change():
        return seen
    ends = [change.done(end) for end in (seen.minmax.minimum, seen.minmax.maximum)]
    samples = None if seen.samples is None else change.done(seen.samples)
    histogram = seen.histogram if change.fold is None else None
    return replace(
        seen, minmax=replace(seen.minmax, minimum=ends[0], maximum=ends[1]), samples=samples, histogram=histogram
    )


def _ends(encoding: Encoding) -> tuple[float, float]:
    """The outermost values that the codes reach."""
    scale, zero = encoding.scale.astype(np.float64), encoding.zero_point.astype(np.float64)
    low, high = scale * (encoding.dtype.qmin - zero), scale * (encoding.dtype.qmax - zero)
    return float(low.min()), float(high.max())


def _counts(
    seen: SiteStatistics, axis: Axis, ends: tuple[float, float], *, step: float
) -> tuple[Counts | None, float | None]:
    """Counts over BINS equal bins of the axis, and the share of values further than half a `step` outside of `ends`."""
    if seen.histogram is not None:
        values, weights = seen.histogram.centers(), seen.histogram.counts.sum(axis=0).astype(np.float64)
    elif seen.samples is not None:
        values = seen.samples.ravel().astype(np.float64)
        weights = np.ones_like(values)
    else:
        return None, None
    counts, _ = np.histogram(values, BINS, (axis.low, axis.high), weights=weights)
    outside = weights[(values < ends[0] - step / 2) | (values > ends[1] + step / 2)].sum()
    return counts.astype(np.float64), float(outside / max(weights.sum(), 1.0))
