"""Encode weights: a constant tensor → Encoding and codes, in bounded memory and on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerOutputGroup, PerTensor
from qonnx_pipe.core.numerics import quantize, scale_and_zero_point
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.statistics import Histogram, MinMax, SiteStatistics
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.protocol import Bound, Range
from qonnx_pipe.observers.search import shrink

_Piece = TypeVar("_Piece")

CHUNK = 1 << 17
"""Values handled at once by a thread: 0.5 MiB of float32, so that a search's many passes stay in the cache."""

OCTAVES = 5
"""How far a block's range may shrink: clipping one outlier of n values pays up to √n times their size, and blocks are
columns of some thousand."""


def encode_weight(weight: npt.NDArray[np.generic], spec: QuantSpec, *, site: str = "") -> Encoding:
    """Encoding of a weight [in, out] or a table [rows, d] by min-max or least squared error.

    Scales of groups along an axis are rounded to float16 (`as_halves`). Groups of outputs become PerChannel(1) with
    equal scales inside a group. Raises ValueError for a granularity or range method that weights do not have, or a
    shape that the group size does not divide; NumericsError, naming `site`, for NaN or infinity.
    """
    if isinstance(spec.granularity, PerOutputGroup):
        return _by_output_groups(weight, spec, spec.granularity, site)
    if not isinstance(spec.granularity, PerTensor | PerChannel | PerGroup):
        raise ValueError(f"weights have no granularity {spec.granularity}")
    if spec.range not in ("minmax", "mse"):
        raise ValueError(f"weights take the range minmax or mse, not {spec.range}")
    blocks, shape = _blocks(weight, spec.granularity)
    low, high = _extremes(blocks)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise NumericsError("the weight holds NaN or infinity", where=site, fix="export a sound checkpoint")
    if spec.range == "mse":
        search = _tensor_mse if isinstance(spec.granularity, PerTensor) else _block_mse
        low, high = search(blocks, low, high, spec)
    scale, zero_point = scale_and_zero_point(low, high, spec.dtype, symmetric=spec.symmetric)
    if isinstance(spec.granularity, PerGroup):
        scale = as_halves(scale)
    return Encoding(spec.dtype, spec.granularity, scale.reshape(shape), zero_point.reshape(shape))


def as_halves(scale: FloatArray) -> FloatArray:
    """Scales of groups rounded to float16, in which files store them; those that float16 cannot hold well stay."""
    held = (scale >= np.finfo(np.float16).smallest_normal) & (scale <= np.finfo(np.float16).max)
    return np.where(held, np.where(held, scale, 1).astype(np.float16).astype(np.float32), scale)


def _by_output_groups(
    weight: npt.NDArray[np.generic], spec: QuantSpec, granularity: PerOutputGroup, site: str
) -> Encoding:
    """Groups laid out one after the other, [in · size, groups]: zeros fill the short ones and never change a range."""
    sizes = granularity.sizes(weight.shape[1])
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(group)) - np.repeat(np.cumsum((0, *sizes[:-1])), sizes)
    laid = np.zeros((len(weight), max(sizes), len(sizes)), np.float32)
    laid[:, place, group] = weight
    columns = encode_weight(laid.reshape(-1, len(sizes)), replace(spec, granularity=PerChannel(1)), site=site)
    return Encoding(spec.dtype, PerChannel(1), columns.scale[group], columns.zero_point[group])


def quantize_weight(weight: npt.NDArray[np.generic], encoding: Encoding) -> npt.NDArray[np.generic]:
    """Codes of a weight, as `core.numerics.quantize` gives them, without its full-size temporaries."""
    codes = np.empty(weight.shape, encoding.dtype.storage)
    match encoding.granularity:
        case PerGroup(axis, size) if axis % weight.ndim == 0:
            unit = size
        case _:
            unit = 1
    rows = unit * max(1, CHUNK * len(weight) // max(1, weight.size) // unit)

    def one(start: int) -> None:
        part = slice(start, start + rows)
        codes[part] = quantize(np.asarray(weight[part], np.float32), _of_rows(encoding, part, weight.ndim))

    _parallel(one, range(0, len(weight), rows))
    return codes


def _blocks(
    weight: npt.NDArray[np.generic], granularity: PerTensor | PerChannel | PerGroup
) -> tuple[npt.NDArray[np.generic], tuple[int, ...]]:
    """The weight as [outer, size, inner], where all values along the middle share a scale, and the scale's shape."""
    if isinstance(granularity, PerTensor):
        return weight.reshape(1, -1, 1), ()
    if not -weight.ndim <= granularity.axis < weight.ndim:
        raise ValueError(f"a weight of shape {weight.shape} has no axis {granularity.axis}")
    axis = granularity.axis % weight.ndim
    length = weight.shape[axis]
    if isinstance(granularity, PerGroup):
        if length % granularity.size:
            raise ValueError(f"groups of {granularity.size} do not divide axis {axis} of length {length}")
        shape = (*weight.shape[:axis], length // granularity.size, *weight.shape[axis + 1 :])
        inner = int(np.prod(weight.shape[axis + 1 :]))
        return weight.reshape(-1, granularity.size, inner), shape
    if axis == 0:
        return weight.reshape(length, -1, 1), (length,)
    return np.moveaxis(weight, axis, -1).reshape(1, -1, length), (length,)


def _extremes(blocks: npt.NDArray[np.generic]) -> Range:
    """Smallest and largest value of each block, widened to hold 0, shape (outer · inner,)."""
    low, high = np.asarray(blocks.min(axis=1), np.float64), np.asarray(blocks.max(axis=1), np.float64)
    return np.minimum(low, 0.0).ravel(), np.maximum(high, 0.0).ravel()


def _tensor_mse(blocks: npt.NDArray[np.generic], low: Bound, high: Bound, spec: QuantSpec) -> Range:
    """Best range of the whole tensor, by way of its histogram."""
    values = blocks.ravel()
    parts = (Histogram.of(np.asarray(values[at : at + CHUNK], np.float32)) for at in range(0, len(values), CHUNK))
    seen = MinMax(low.astype(np.float32), high.astype(np.float32))
    return OBSERVERS["mse"].range(SiteStatistics(seen, histogram=reduce(Histogram.merge, parts)), spec, None)


def _block_mse(blocks: npt.NDArray[np.generic], low: Bound, high: Bound, spec: QuantSpec) -> Range:
    """Best range of each block, exactly, over its values."""
    outer, _, inner = blocks.shape
    low, high = low.reshape(outer, inner), high.reshape(outer, inner)
    below, above = np.empty_like(low), np.empty_like(high)

    def one(slab: tuple[slice, slice]) -> None:
        rows, columns = slab
        values = np.ascontiguousarray(blocks[rows, :, columns], np.float32)
        found = shrink(
            _squared_error(values, spec), low[slab].ravel(), high[slab].ravel(),
            symmetric=spec.symmetric, octaves=OCTAVES,
        )  # fmt: skip
        below[slab], above[slab] = (bound.reshape(low[slab].shape) for bound in found)

    _parallel(one, _slabs(blocks.shape))
    return below.ravel(), above.ravel()


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cuts of [outer, size, inner] into whole blocks of about CHUNK values."""
    outer, size, inner = shape
    columns = min(inner, max(1, CHUNK // size))
    rows = max(1, CHUNK // (size * columns))
    for row in range(0, outer, rows):
        for column in range(0, inner, columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _squared_error(values: FloatArray, spec: QuantSpec) -> Callable[[Bound, Bound], Bound]:
    """Squared error of the quantizer of given ranges over each block of `values` [outer, size, inner]."""
    codes, nearest = np.empty_like(values), np.empty_like(values)

    def error(low: Bound, high: Bound) -> Bound:
        scale, zero_point = scale_and_zero_point(low, high, spec.dtype, symmetric=spec.symmetric)
        step, shift = (bound.reshape(len(values), 1, -1) for bound in (scale, zero_point.astype(np.float32)))
        np.divide(values, step, out=codes)
        np.rint(codes, out=nearest)
        np.maximum(nearest, spec.dtype.qmin - shift, out=nearest)
        np.minimum(nearest, spec.dtype.qmax - shift, out=nearest)
        np.subtract(codes, nearest, out=codes)
        return np.asarray(np.einsum("osi,osi->oi", codes, codes).ravel() * scale.astype(np.float64) ** 2)

    return error


def _of_rows(encoding: Encoding, rows: slice, ndim: int) -> Encoding:
    """The encoding of some rows (first axis) of a weight."""
    match encoding.granularity:
        case PerChannel(axis) if axis % ndim == 0:
            part = rows
        case PerGroup(axis, size) if axis % ndim == 0:
            part = slice(rows.start // size, rows.stop // size)
        case PerGroup():
            part = rows
        case _:
            return encoding
    return Encoding(encoding.dtype, encoding.granularity, encoding.scale[part], encoding.zero_point[part])


def _parallel(work: Callable[[_Piece], None], pieces: Iterable[_Piece]) -> None:
    """Do all pieces on all cores: numpy lets go of the interpreter's lock inside its loops."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(work, pieces):
            pass
