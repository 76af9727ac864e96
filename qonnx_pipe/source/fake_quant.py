"""Fake quantization in torch: values on the grid of codes, gradients straight through, ranges that can be learned.

At every step it gives, bit for bit, what `core.numerics.fake_quantize` gives with the encoding of that step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding, Windows
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerOutputGroup
from qonnx_pipe.core.numerics import TINY_SCALE
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.recipe.training import Ranges


class FakeQuantizer(torch.nn.Module):
    """One site's quantizer, from its first encoding on.

    `ranges`: "learned" (LSQ, Esser et al. 2020; with a zero point LSQ+, Bhalgat et al. 2020), "fixed", or "current":
    the extremes of the values of each call (Q-BERT, Shen et al. 2019). A learned scale is the first one times
    exp(growth), so that it stays positive and a step of Adam changes it by a share of itself; a learned zero point
    moves by `shift` times the number of levels, and is rounded, so that zero stays exact.
    """

    scale: Tensor
    zero: Tensor
    index: Tensor | None

    def __init__(self, spec: QuantSpec, first: Encoding, ranges: Ranges) -> None:
        """Raises ValueError for columns beyond the range (`expand`), which are no grid of one tensor."""
        super().__init__()
        if isinstance(first.granularity, Windows):
            raise ValueError("a quantizer with further columns cannot be trained")
        self.spec, self.ranges, self.layout = spec, ranges, first.granularity
        place, index = _shared(spec, first)
        self.register_buffer("index", None if index is None else torch.from_numpy(index))
        self.register_buffer("scale", torch.from_numpy(np.array(first.scale[place])))
        self.register_buffer("zero", torch.from_numpy(np.array(first.zero_point[place], np.float32)))
        if ranges == "learned":
            self.growth = torch.nn.Parameter(torch.zeros_like(self.scale))
            if not spec.symmetric:
                self.shift = torch.nn.Parameter(torch.zeros_like(self.scale))

    def forward(self, values: Tensor) -> Tensor:
        """The values as their codes read, in the same shape."""
        scale, zero = (self._spread(part, values.ndim) for part in self._range(values))
        return self._quantized(values, scale, zero)

    def rows(self, table: Tensor, ids: Tensor) -> Tensor:
        """The same as `self(table)[ids]`, where only the rows that are read are worked on."""
        taken = torch.nn.functional.embedding(ids, table)
        scale, zero = (self._spread(part, 2) for part in self._range(table))
        if scale.ndim and scale.shape[0] > 1:  # scales of a row's own
            scale, zero = scale[ids], zero[ids]
        return self._quantized(taken, scale, zero)

    def encoding(self, values: Tensor) -> Encoding:
        """Scale and zero point as they are now; `values` decide them where ranges are current."""
        with torch.no_grad():
            scale, zero = self._range(values)
            if self.index is not None and not isinstance(self.layout, EmbeddingGroups):
                scale, zero = scale[self.index], zero[self.index]
        return Encoding(self.spec.dtype, self.layout, scale.cpu().numpy(), zero.cpu().numpy().astype(np.int32))

    def _quantized(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """`scale` and `zero` broadcast against the values, whose grouped axis is cut in two."""
        cut, shape = self._cut(values), values.shape
        low, high = self.spec.dtype.qmin, self.spec.dtype.qmax
        shared = cut.numel() / max(1, scale.numel())
        limits = low, high, (shared * max(1, high)) ** -0.5
        result: Tensor = _Quantize.apply(cut, scale, zero, limits)  # type: ignore[no-untyped-call]
        return result.reshape(shape)

    def _cut(self, values: Tensor) -> Tensor:
        if not isinstance(self.layout, PerGroup):
            return values
        axis = values.ndim - 2 + self.layout.axis % 2  # weights and tables have two axes, rows of tables more in front
        return values.reshape((*values.shape[:axis], -1, self.layout.size, *values.shape[axis + 1 :]))

    def _spread(self, part: Tensor, rank: int) -> Tensor:
        """A scale or zero point for each group, in a shape that broadcasts against the cut values."""
        part = part if self.index is None else part[self.index]
        match self.layout:
            case PerChannel(axis):
                return part.reshape([-1 if place == axis % rank else 1 for place in range(rank)])
            case PerGroup(axis, _):
                return part.unsqueeze(axis % 2 + 1)
        return part

    def _range(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of each group."""
        if self.ranges == "current":
            return self._seen(values.detach())
        if self.ranges == "fixed":
            return self.scale, self.zero
        scale = (self.scale * torch.exp(self.growth)).clamp_min(float(TINY_SCALE))
        if self.spec.symmetric:
            return scale, self.zero
        dtype = self.spec.dtype
        wanted = self.zero + dtype.levels * self.shift
        whole = wanted.detach().round().clamp(dtype.qmin, dtype.qmax)
        return scale, wanted + (whole - wanted).detach() if wanted.requires_grad else whole

    def _seen(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `core.numerics.scale_and_zero_point`, in double precision, of each group's extremes."""
        cut, dtype = self._cut(values), self.spec.dtype
        like = self._spread(self.scale, values.ndim)
        along = [axis for axis in range(cut.ndim) if axis >= cut.ndim - like.ndim and like.shape[axis - cut.ndim] == 1]
        along += range(cut.ndim - like.ndim)
        low, high = cut.amin(along).double(), cut.amax(along).double()
        if self.index is not None:
            low, high = (_merged(part, self.index, way) for part, way in ((low, "amin"), (high, "amax")))
        low, high = low.clamp_max(0).reshape(self.scale.shape), high.clamp_min(0).reshape(self.scale.shape)
        if self.spec.symmetric:
            bound = torch.maximum(-low, high) / ((1 << (dtype.bits - 1)) - 1)
            return self._stored(bound.float().clamp_min(float(TINY_SCALE))), self.zero
        scale = ((high - low) / dtype.levels).float().clamp_min(float(TINY_SCALE))
        return self._stored(scale), (dtype.qmin - low / scale).round().clamp(dtype.qmin, dtype.qmax).float()

    def _stored(self, scale: Tensor) -> Tensor:
        """Scales of groups along an axis as files store them: `observers.weights.as_halves`."""
        if not isinstance(self.layout, PerGroup):
            return scale
        held = (scale >= torch.finfo(torch.float16).smallest_normal) & (scale <= torch.finfo(torch.float16).max)
        return torch.where(held, scale.half().float(), scale)


def _shared(spec: QuantSpec, first: Encoding) -> tuple[Any, Any]:
    """Which scales of the encoding are learned, and for each place along the axis which of these it has, or None."""
    if isinstance(first.granularity, EmbeddingGroups):
        return slice(None), first.granularity.group_of_dimension()
    if isinstance(spec.granularity, PerOutputGroup):
        sizes = np.asarray(spec.granularity.sizes(len(first.scale)))
        return np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    return ..., None


def _merged(part: Tensor, index: Tensor, way: str) -> Tensor:
    """Extremes of groups, from those of their members."""
    groups = int(index.max()) + 1
    return part.new_empty(groups).scatter_reduce(0, index, part, way, include_self=False)


class _Quantize(torch.autograd.Function):
    """(clamp(round(x/s) + z) − z)·s, and its gradients as LSQ and LSQ+ define them.

    With Qn = low − z, Qp = high − z and v = x/s: ∂/∂x is 1 where Qn ≤ v ≤ Qp, else 0; ∂/∂s is round(v) − v there, Qn or
    Qp outside; ∂/∂z is 0 there, −s outside. Those of s and z are multiplied by `factor`, 1/√(N·high). With the output
    y and the gradient h that is passed on to x, ∂/∂s sums up to (Σ g·y − Σ h·x)/s, and ∂/∂z to s·(Σ h − Σ g): few
    passes over memory, which is what a step of training waits for.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int, float]) -> Tensor:
        low, high, _ = limits
        codes = (values / scale).round_()
        result = torch.clamp(codes, *_bounds(low - zero, high - zero), out=codes).mul_(scale)
        ctx.save_for_backward(values, result, scale, zero)
        ctx.limits = limits
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, result, scale, zero = ctx.saved_tensors
        low, high, factor = ctx.limits
        passed = _passed(gradient, values, (low - zero) * scale, (high - zero) * scale)
        of_scale = of_zero = None
        if ctx.needs_input_grad[1]:
            of_scale = (_sum_of_products(gradient, result, scale) - _sum_of_products(passed, values, scale)) / scale
            of_scale *= factor
        if ctx.needs_input_grad[2]:
            of_zero = (passed.sum_to_size(zero.shape) - gradient.sum_to_size(zero.shape)) * (scale * factor)
        return passed, of_scale, of_zero, None


def _passed(gradient: Tensor, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The gradient where low < value < high, else 0; where one scale serves few values, the ends are let through."""
    if low.ndim == 0:
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, values, low.item(), high.item())
        return passed
    return torch.clamp(values, low, high).eq_(values).mul_(gradient)


def _bounds(*ends: Tensor) -> Sequence[Tensor] | Sequence[float]:
    """Ends of a range as numbers where they are the same everywhere: clamping is nine times as fast then."""
    return [end.item() for end in ends] if ends[0].ndim == 0 else ends


def _sum_of_products(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Σ left·right over what shares an element of `like`."""
    if like.ndim == 0:
        return torch.dot(left.reshape(-1), right.reshape(-1))
    return (left * right).sum_to_size(like.shape)
