"""Fold: which scale and shift of each dimension leave the least error behind the linear layers that read a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, FloatArray
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.numerics import dequantize, fake_quantize
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import Histogram, MinMax, RunningMinMax, SiteStatistics
from qonnx_pipe.observers.encode import encode_activation
from qonnx_pipe.observers.weights import encode_weight, quantize_weight

TOKENS = 256
"""Tokens that a search looks at: it compares errors that differ by percents."""

STRENGTHS = (0.5, 0.6, 0.7, 0.9, 1.0)
"""Migration strengths that a search tries besides `TYPICAL`."""

TYPICAL = 0.8
"""The strength that is best, or within 0.2 dB of it, at most sites of MiniLM; it decides whether to shift."""

QUANTILES = (0.5, 0.9)
"""Shares of the dimensions that stay inside the threshold t, which a search tries."""

LEAST_GAIN_DB = 4.0
"""What scales must gain over none where they cost a Mul: MiniLM's first three Muls gain 3.3 dB each at their sites, all
together 0.5 dB at the output, and take 1 % of the time."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear layer that reads the tensor: its weight [in, out], and the quantizer that the weight gets, if any."""

    weight: FloatArray
    spec: QuantSpec | None


def by_groups(encoding: Encoding) -> tuple[Affine, Encoding]:
    """A PEG encoding as an affine and one per-tensor encoding that gives the same codes.

    Group g has codes round(x/s_g) + z_g. With s the largest scale and z the middle code, x' = (x − (z − z_g)·s_g)·s/s_g
    has round(x'/s) + z = round(x/s_g) + z_g, since z − z_g is whole; so 0 stays exact in every group. The middle code
    centres x', whose mean multiplies the errors of the weights.
    """
    assert isinstance(encoding.granularity, EmbeddingGroups)
    groups, dtype = encoding.granularity.group_of_dimension(), encoding.dtype
    scale, middle = encoding.scale.max(), (dtype.qmin + dtype.qmax + 1) // 2
    shift = ((middle - encoding.zero_point) * encoding.scale).astype(np.float32)
    affine = Affine((encoding.scale / scale)[groups], shift[groups])
    return affine, Encoding(dtype, PerTensor(), scale, np.asarray(middle))


def smoothing(statistics: SiteStatistics, spec: QuantSpec, readers: Sequence[Reader]) -> Affine:
    """SmoothQuant with strength α = `spec.smooth` (Xiao et al. 2022, eq. 4): s_j = max|X_j|^α / max|W_j|^(1−α).

    W_j are all weights that read dimension j. With `spec.shift` X_j is first centred by z_j = (max + min)/2, as in
    Outlier Suppression+ (Wei et al. 2023, eq. 5). s_j is 1 for a dimension that is always zero or that nothing reads.
    """
    low, high = _bounds(statistics, spec)
    shift: FloatArray = _middle(low, high) if spec.shift else np.zeros_like(low)
    rows = np.max([np.abs(reader.weight).max(axis=1) for reader in readers], axis=0)
    return Affine(_balanced(_reach(low, high, shift), rows, spec.smooth), shift)


def search(
    statistics: SiteStatistics, spec: QuantSpec, readers: Sequence[Reader], *, corrected: bool, costly: bool = False
) -> Affine:
    """Of many scales (and shifts, where `spec.shift` allows) those with the least error in what the readers compute.

    First z_j = (max + min)/2 or 0, with balanced scales of strength `TYPICAL`; then, for the better z, no scale;
    s_j = max(1, max|X_j − z_j|/t) for thresholds t (Outlier Suppression+, Wei et al. 2023, eq. 8); and balanced scales
    max|X_j − z_j|^α / w_j^(1−α) of other strengths, w_j being the root of the summed squares of the weights behind
    dimension j (by which its error counts), or, as in SmoothQuant, the largest of them. The error is the squared error
    of quantized inputs times weights with min-max ranges, on `statistics.samples`, after `bias_error` where the biases
    will be `corrected`. Where scales are `costly`, the best of them are taken only if they gain LEAST_GAIN_DB.

    Raises ValueError when calibration kept no samples.
    """
    if statistics.samples is None:
        raise ValueError("calibration kept no tokens here, which a search of scales needs")
    seen = replace(statistics, samples=_spread(statistics.samples))
    assert seen.samples is not None
    expected = [seen.samples @ reader.weight for reader in readers]

    def error(affine: Affine) -> float:
        return _error(seen, spec, readers, expected, affine, corrected=corrected)

    def best(candidates: Iterable[Affine]) -> Affine:
        return min(candidates, key=error)

    low, high = _bounds(statistics, spec)
    largest = np.max([np.abs(reader.weight).max(axis=1) for reader in readers], axis=0)
    root = np.sqrt(np.sum([np.square(reader.weight).sum(axis=1) for reader in readers], axis=0))
    shifts = [np.zeros_like(low), _middle(low, high)] if spec.shift else [np.zeros_like(low)]
    first = best([Affine(_balanced(_reach(low, high, shift), root, TYPICAL), shift) for shift in shifts])
    reach = _reach(low, high, first.shift)
    thresholds = np.quantile(reach[reach > 0], QUANTILES) if np.any(reach > 0) else ()
    scales = [np.ones_like(low), *(np.maximum(1.0, reach / threshold) for threshold in thresholds)]
    scales += [_balanced(reach, root, alpha) for alpha in STRENGTHS]
    scales += [_balanced(reach, largest, alpha) for alpha in (TYPICAL, 0.9)]
    found, plain = best([first, *(Affine(scale, first.shift) for scale in scales)]), Affine.shifting(first.shift)
    return plain if costly and error(plain) < error(found) * 10 ** (LEAST_GAIN_DB / 10) else found


def moved(statistics: SiteStatistics, affine: Affine) -> SiteStatistics:
    """Statistics of the same data behind an affine.

    The running extremes of the whole tensor become the extremes over the dimensions' own; a histogram becomes that of
    the samples, where there are any.
    """
    minmax = MinMax(affine(statistics.minmax.minimum), affine(statistics.minmax.maximum))
    running = None
    if statistics.running is not None:
        low, high = affine(statistics.running.minimum), affine(statistics.running.maximum)
        running = RunningMinMax(low, high, np.float32(low.min()), np.float32(high.max()))
    samples = None if statistics.samples is None else affine(statistics.samples)
    histogram = None
    if statistics.histogram is not None and samples is not None:
        histogram = Histogram.of(samples, per_embedding=len(statistics.histogram.counts) > 1)
    return SiteStatistics(minmax, running, histogram, samples)


def bias_error(samples: FloatArray, weight: FloatArray, quantized: FloatArray) -> FloatArray:
    """What quantization of the weight takes from a linear layer's mean output, shape (out,): to be added to its bias.

    (W − Ŵ)ᵀ·E[x] over `samples` (n, in), for W and the `quantized` Ŵ, both [in, out]: Nagel et al. 2019, §4.2. What
    clipping does to E[x] is left alone: it falls on few tokens, and all others would pay for them.
    """
    error: FloatArray = (samples.mean(axis=0, dtype=np.float64) @ (weight - quantized)).astype(np.float32)
    return error


def _spread(samples: FloatArray) -> FloatArray:
    """At most TOKENS of the samples, evenly from first to last."""
    return samples[:: -(-len(samples) // TOKENS)]


def _error(
    statistics: SiteStatistics,
    spec: QuantSpec,
    readers: Sequence[Reader],
    expected: Sequence[FloatArray],
    affine: Affine,
    *,
    corrected: bool,
) -> float:
    """Squared error of the readers' outputs on the samples."""
    behind = moved(statistics, affine)
    assert behind.samples is not None
    seen = fake_quantize(behind.samples, encode_activation(behind, spec, site=""))
    total = 0.0
    for reader, output in zip(readers, expected, strict=True):
        weight = quantized = reader.weight * affine.scale[:, None]
        if reader.spec is not None:
            encoding = encode_weight(weight, replace(reader.spec, range="minmax"))
            quantized = dequantize(quantize_weight(weight, encoding), encoding)
        error = seen @ quantized - output + affine.shift @ reader.weight
        if corrected:
            error += bias_error(behind.samples, weight, quantized)
        total += float(np.einsum("no,no->", error, error))
    return total


def _bounds(statistics: SiteStatistics, spec: QuantSpec) -> tuple[FloatArray, FloatArray]:
    """Extremes of each dimension, shape (d,)."""
    running = statistics.running if spec.range == "running_minmax" else None
    bounds = running or statistics.minmax
    return bounds.minimum, bounds.maximum


def _middle(low: FloatArray, high: FloatArray) -> FloatArray:
    """z_j = (max + min)/2 (Wei et al. 2023, eq. 5)."""
    middle: FloatArray = (low + high) / np.float32(2)
    return middle


def _reach(low: FloatArray, high: FloatArray, shift: FloatArray) -> FloatArray:
    reach: FloatArray = np.maximum(np.abs(low - shift), np.abs(high - shift))
    return reach


def _balanced(reach: FloatArray, rows: FloatArray, alpha: float) -> FloatArray:
    """reach^α / rows^(1−α), shape (d,)."""
    used = (reach > 0) & (rows > 0)
    scale = np.ones(len(reach), np.float64)
    scale[used] = reach[used].astype(np.float64) ** alpha / rows[used].astype(np.float64) ** (1.0 - alpha)
    return scale.astype(np.float32)
