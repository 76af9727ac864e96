"""CalibrationTable: what was seen at each site, as mergeable statistics, and where it was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray

CountArray = npt.NDArray[np.int64] | npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class MinMax:
    """Smallest and largest value of each embedding dimension, shape (d,), or of the whole tensor, shape (1,).

    `merge` is associative, commutative and independent of how the data were cut into batches.
    """

    minimum: FloatArray
    maximum: FloatArray

    def merge(self, other: MinMax) -> MinMax:
        """Statistics of both data sets together."""
        return MinMax(np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum))


@dataclass(frozen=True, eq=False)
class RunningMinMax:
    """Exponential moving average of batch extremes: new = momentum·old + (1 − momentum)·batch.

    Depends on the order and the size of the batches, by definition, and so has no `merge`.
    `minimum`, `maximum`: per dimension, shape (d,) or (1,); `tensor_*`: averages of whole-tensor extremes, shape ().
    """

    minimum: FloatArray
    maximum: FloatArray
    tensor_minimum: np.float32
    tensor_maximum: np.float32

    @classmethod
    def first(cls, batch: MinMax) -> RunningMinMax:
        """State after the first batch."""
        return cls(batch.minimum, batch.maximum, np.float32(batch.minimum.min()), np.float32(batch.maximum.max()))

    def update(self, batch: MinMax, momentum: float = 0.9) -> RunningMinMax:
        """State after one more batch."""
        keep, take = np.float32(momentum), np.float32(1.0 - momentum)
        return RunningMinMax(
            keep * self.minimum + take * batch.minimum,
            keep * self.maximum + take * batch.maximum,
            np.float32(keep * self.tensor_minimum + take * batch.minimum.min()),
            np.float32(keep * self.tensor_maximum + take * batch.maximum.max()),
        )


FIRST_EXPONENT, LAST_EXPONENT = -20, 20
"""Octaves that a histogram tells apart: |x| in [2^-20, 2^21); smaller is zero, larger stands in the last bin."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts over fixed logarithmic bins, the same for every tensor, so that any two histograms add up.

    A bin is the sign, the exponent and the top `mantissa_bits` bits of a float32: at 7 bits no value is further than
    0.4 % from its bin's middle. Bins ascend: negative ones (largest magnitude first), zero, positive ones.
    `counts` has shape (channels, bins): one channel of int64 for a whole tensor, d of int32 for per-embedding
    statistics, which count tokens.
    `merge` is addition: associative, commutative, independent of batches; memory is constant.
    """

    counts: CountArray
    mantissa_bits: int

    @staticmethod
    def half_bins(mantissa_bits: int) -> int:
        """Number of bins on each side of zero."""
        return (LAST_EXPONENT - FIRST_EXPONENT + 1) << mantissa_bits

    @classmethod
    def of(cls, values: FloatArray, *, per_embedding: bool = False, mantissa_bits: int | None = None) -> Histogram:
        """Histogram of a tensor [..., d]: of all values, or of each of the d dimensions.

        `mantissa_bits` is at most 7; left out, it is 7 for a tensor and 4 per embedding, where d = 768 takes 4 MB.
        NaN and infinity stand in the outermost bins.
        """
        bits = mantissa_bits if mantissa_bits is not None else 4 if per_embedding else 7
        bin_of, bins = _bin_of_code(bits), 2 * cls.half_bins(bits) + 1
        codes = np.ascontiguousarray(values, "<f4").reshape(-1).view("<u2")[1::2]
        if not per_embedding:
            seen = np.bincount(codes, minlength=len(bin_of))
            return cls(np.bincount(bin_of, seen, minlength=bins)[None, :].astype(np.int64), bits)
        width = values.shape[-1]
        index = bin_of[codes].reshape(-1, width)
        index += np.arange(width) * bins
        return cls(np.bincount(index.ravel(), minlength=width * bins).reshape(width, bins).astype(np.int32), bits)

    def merge(self, other: Histogram) -> Histogram:
        """Counts of both data sets together; ValueError for different bins."""
        if self.counts.shape != other.counts.shape or self.mantissa_bits != other.mantissa_bits:
            raise ValueError("histograms of different layout do not merge")
        return Histogram(self.counts + other.counts, self.mantissa_bits)

    def edges(self) -> npt.NDArray[np.float64]:
        """Bin edges, ascending, shape (bins + 1,)."""
        positive = self._positive_edges()
        return np.concatenate([-positive[::-1], positive])

    def centers(self) -> npt.NDArray[np.float64]:
        """Middle of each bin, shape (bins,); exactly 0 for the zero bin."""
        edges = self.edges()
        return 0.5 * (edges[:-1] + edges[1:])

    def _positive_edges(self) -> npt.NDArray[np.float64]:
        steps = np.arange(self.half_bins(self.mantissa_bits) + 1)
        exponent, mantissa = np.divmod(steps, 1 << self.mantissa_bits)
        return np.asarray(np.ldexp(1.0 + mantissa / (1 << self.mantissa_bits), exponent + FIRST_EXPONENT))


@cache
def _bin_of_code(mantissa_bits: int) -> CountArray:
    """Bin of every upper half of a float32 (sign, exponent, top 7 mantissa bits: 65,536 codes)."""
    if not 0 <= mantissa_bits <= 7:
        raise ValueError(f"a histogram keeps 0 to 7 mantissa bits, not {mantissa_bits}")
    codes = np.arange(1 << 16)
    half = Histogram.half_bins(mantissa_bits)
    magnitude = ((codes & 0x7FFF) >> (7 - mantissa_bits)) - ((127 + FIRST_EXPONENT) << mantissa_bits) + 1
    return np.asarray(half + np.clip(magnitude, 0, half) * np.where(codes & 0x8000, -1, 1))


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """Everything that one calibration saw at a site; what was not asked for is None.

    `samples` are whole tokens, shape (n, d), by example and position, chosen as in `core.sampling`: all sites that were
    asked hold the same tokens in the same order, whatever the batches were; a site with one row an example holds rows.
    """

    minmax: MinMax
    running: RunningMinMax | None = None
    histogram: Histogram | None = None
    samples: FloatArray | None = None

    def reordered(self, order: Sequence[int]) -> SiteStatistics:
        """Statistics of the same data with dimension `order[i]` at place i; what holds for the whole tensor stays."""
        places = list(order)
        minmax = MinMax(self.minmax.minimum[places], self.minmax.maximum[places])
        running, histogram, samples = self.running, self.histogram, self.samples
        if running is not None:
            running = replace(running, minimum=running.minimum[places], maximum=running.maximum[places])
        if histogram is not None and len(histogram.counts) > 1:
            histogram = replace(histogram, counts=histogram.counts[places])
        return SiteStatistics(minmax, running, histogram, None if samples is None else samples[:, places])


@dataclass(frozen=True)
class Provenance:
    """Where a table comes from; `tokens` counts the tokens of its `batches` batches that are no padding."""

    model_sha256: str
    data_sha256: str
    samples: int
    batches: int
    tokens: int
    batch_size: int
    max_length: int


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Site id → statistics."""

    sites: Mapping[str, SiteStatistics]
    provenance: Provenance

    def reordered(self, orders: Mapping[str, Sequence[int]]) -> CalibrationTable:
        """The table of a model whose dimensions stand in another order at the sites of `orders`."""
        sites = {site: seen.reordered(orders[site]) if site in orders else seen for site, seen in self.sites.items()}
        return CalibrationTable(sites, self.provenance)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Flat arrays for an .npz file: "site|statistic|field"."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for site, seen in self.sites.items():
            arrays[f"{site}|minmax|minimum"], arrays[f"{site}|minmax|maximum"] = (
                seen.minmax.minimum,
                seen.minmax.maximum,
            )
            if seen.running is not None:
                for name in ("minimum", "maximum", "tensor_minimum", "tensor_maximum"):
                    arrays[f"{site}|running|{name}"] = np.asarray(getattr(seen.running, name))
            if seen.histogram is not None:
                arrays[f"{site}|histogram|counts"] = seen.histogram.counts
                arrays[f"{site}|histogram|mantissa_bits"] = np.asarray(seen.histogram.mantissa_bits)
            if seen.samples is not None:
                arrays[f"{site}|samples|tokens"] = seen.samples
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]], provenance: Provenance) -> CalibrationTable:
        """The inverse of `to_arrays`; KeyError when a field is missing."""
        grouped: dict[str, dict[str, dict[str, npt.NDArray[np.generic]]]] = {}
        for key, value in arrays.items():
            site, statistic, name = key.rsplit("|", 2)
            grouped.setdefault(site, {}).setdefault(statistic, {})[name] = value
        return cls({site: _site_statistics(found) for site, found in grouped.items()}, provenance)


def _site_statistics(found: Mapping[str, Mapping[str, npt.NDArray[np.generic]]]) -> SiteStatistics:
    def floats(statistic: str, name: str) -> FloatArray:
        return found[statistic][name].astype(np.float32)

    minmax = MinMax(floats("minmax", "minimum"), floats("minmax", "maximum"))
    running = histogram = None
    if "running" in found:
        running = RunningMinMax(
            floats("running", "minimum"),
            floats("running", "maximum"),
            np.float32(floats("running", "tensor_minimum")),
            np.float32(floats("running", "tensor_maximum")),
        )
    if "histogram" in found:
        histogram = Histogram(
            cast(CountArray, found["histogram"]["counts"]), int(found["histogram"]["mantissa_bits"].astype(np.int64))
        )
    samples = floats("samples", "tokens") if "samples" in found else None
    return SiteStatistics(minmax, running, histogram, samples)


@dataclass(frozen=True)
class Request:
    """What calibration must collect at one site; min-max is always collected.

    `histogram`: None, or the channels of the histogram ("tensor" or "embedding"). `samples`: how many tokens to keep.
    """

    site: str
    running: bool = False
    histogram: str | None = None
    samples: int = 0


@dataclass(frozen=True)
class Requests:
    """The plan's wishes for one calibration pass: one request a site, in data-flow order."""

    items: tuple[Request, ...] = field(default=())

    @property
    def samples(self) -> int:
        """How many tokens one calibration keeps, at every site that asks for some: the most that a site asks for."""
        return max((request.samples for request in self.items), default=0)
