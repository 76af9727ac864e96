"""Quantize and dequantize in numpy: the reference that every other implementation must match."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, FloatArray, IntArray, Windows
from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.qtype import QType

TINY_SCALE = np.float32(2.0**-126)
"""Smallest scale: the smallest normal float32, so that a constant-zero tensor still has a legal encoding."""


def scale_and_zero_point(
    low: npt.ArrayLike, high: npt.ArrayLike, dtype: QType, *, symmetric: bool
) -> tuple[FloatArray, IntArray]:
    """Scale and zero point of ranges [low, high] (same shape, any), Bondarenko et al. 2021 §2.

    Asymmetric: the range is widened to hold 0; s = (high − low)/(2^b − 1), z = clamp(round(qmin − low/s)).
    Symmetric: s = max(|low|, |high|)/(2^(b−1) − 1), z = 0 (the middle code for unsigned types).
    Raises ValueError when a bound is not finite.
    """
    low64, high64 = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.all(np.isfinite(low64)) and np.all(np.isfinite(high64))):
        raise ValueError("a range bound is not finite")
    if symmetric:
        bound = np.maximum(np.abs(low64), np.abs(high64))
        scale = np.maximum((bound / ((1 << (dtype.bits - 1)) - 1)).astype(np.float32), TINY_SCALE)
        middle = 0 if dtype.signed else 1 << (dtype.bits - 1)
        return scale, np.full(scale.shape, middle, np.int32)
    low64, high64 = np.minimum(low64, 0.0), np.maximum(high64, 0.0)
    scale = np.maximum(((high64 - low64) / dtype.levels).astype(np.float32), TINY_SCALE)
    zero_point = np.clip(np.rint(dtype.qmin - low64 / scale), dtype.qmin, dtype.qmax)
    return scale, zero_point.astype(np.int32)


def quantize(values: FloatArray, encoding: Encoding) -> npt.NDArray[np.generic]:
    """Codes of `values` in `encoding.dtype.storage`: clamp(round_half_even(x/s) + z), as ONNX QuantizeLinear rounds.

    Windows give a code more along the last axis for each of their columns, displaced by `displacements`.
    """
    if isinstance(encoding.granularity, Windows):
        columns = values[..., list(encoding.granularity.dimensions)] - displacements(encoding)
        values = np.concatenate([values, columns], axis=-1)
    scale, zero_point = broadcast(encoding, values.shape)
    with np.errstate(over="ignore"):  # a value far beyond a tiny scale: infinity is clamped like any other
        codes = np.rint(values / scale) + zero_point
    clamped: FloatArray = np.clip(codes, encoding.dtype.qmin, encoding.dtype.qmax)
    return clamped.astype(encoding.dtype.storage)


def dequantize(codes: npt.NDArray[np.generic], encoding: Encoding) -> FloatArray:
    """Real values of codes: (q − z)·s in float32; the columns of Windows are added up."""
    scale, zero_point = broadcast(encoding, codes.shape)
    whole = codes.astype(np.int32)
    if isinstance(encoding.granularity, Windows):
        whole = _added_up(whole, encoding)
    return ((whole - zero_point).astype(np.float32) * scale).astype(np.float32)


def fake_quantize(values: FloatArray, encoding: Encoding) -> FloatArray:
    """`dequantize(quantize(values))`: what a simulated quantizer passes on."""
    return dequantize(quantize(values, encoding), encoding)


def displacements(encoding: Encoding) -> FloatArray:
    """What is subtracted from the dimension of each column of Windows, shape (columns,): places · levels · scale."""
    assert isinstance(encoding.granularity, Windows)
    places = np.asarray(encoding.granularity.places, np.float64)
    return np.asarray(places * encoding.dtype.levels * np.float64(encoding.scale), np.float32)


def resting_codes(encoding: Encoding) -> IntArray:
    """The code of each column of Windows whose value lies in the tensor's own window: qmin above it, qmax below."""
    assert isinstance(encoding.granularity, Windows)
    above = np.asarray(encoding.granularity.places) > 0
    return np.where(above, encoding.dtype.qmin, encoding.dtype.qmax).astype(np.int32)


def sqnr_db(reference: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Signal-to-quantization-noise ratio 10·log10(Σr²/Σ(r−a)²), dB; inf for equal arrays, −inf for a zero reference."""
    reference64, actual64 = np.asarray(reference, np.float64), np.asarray(actual, np.float64)
    noise = float(np.sum((reference64 - actual64) ** 2))
    signal = float(np.sum(reference64**2))
    if noise == 0.0:
        return float("inf")
    return float("-inf") if signal == 0.0 else 10.0 * float(np.log10(signal / noise))


def _added_up(codes: IntArray, encoding: Encoding) -> IntArray:
    """Codes of the dimensions alone, beyond qmin and qmax where columns go on: Σᵢ clip(q − i·levels) = q."""
    assert isinstance(encoding.granularity, Windows)
    width, dimensions = encoding.granularity.width, encoding.granularity.dimensions
    total, moved = codes[..., :width].copy(), codes[..., width:] - resting_codes(encoding)
    for column, dimension in enumerate(dimensions):
        total[..., dimension] += moved[..., column]
    return total


def broadcast(encoding: Encoding, shape: tuple[int, ...]) -> tuple[FloatArray, IntArray]:
    """Scale and zero point in a shape that broadcasts against a tensor of `shape`."""
    scale, zero_point = encoding.scale, encoding.zero_point
    match encoding.granularity:
        case PerChannel(axis):
            target = [1] * len(shape)
            target[axis] = -1
            return scale.reshape(target), zero_point.reshape(target)
        case PerGroup(axis, size):
            return np.repeat(scale, size, axis), np.repeat(zero_point, size, axis)
        case EmbeddingGroups() as groups:
            index = groups.group_of_dimension()
            return scale[index], zero_point[index]
    return scale, zero_point
