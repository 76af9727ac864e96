"""Operators: what each ONNX operator of an exported encoder computes, in torch; gradients of all orders flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from qonnx_pipe.core.network import Node

Computed: TypeAlias = "Tensor | tuple[Tensor, ...]"
Operator = Callable[..., Computed]
"""Takes the node's attributes, then its inputs; an input that is left out is None."""

Attributes = Mapping[str, Any]

ELEMENTS = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}
"""Torch's types by the numbers that ONNX gives them."""


def _integers(tensor: Tensor) -> list[int]:
    return [int(one) for one in tensor.reshape(-1).tolist()]


def _divide(_: Attributes, left: Tensor, right: Tensor) -> Tensor:
    """Integers are cut towards zero."""
    return torch.div(left, right, rounding_mode=None if left.is_floating_point() else "trunc")


def _gemm(attributes: Attributes, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + attributes.get("beta", 1.0) * bias


def _layer_norm(attributes: Attributes, values: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = values.shape[attributes.get("axis", -1) :]
    return torch.nn.functional.layer_norm(values, shape, gain, bias, attributes.get("epsilon", 1e-5))


def _gelu(attributes: Attributes, values: Tensor) -> Tensor:
    return torch.nn.functional.gelu(values, approximate=attributes.get("approximate", "none"))


def _conv(attributes: Attributes, values: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution whose padding is the same on both sides, in one, two or three dimensions."""
    rank = kernel.ndim - 2
    pads = attributes.get("pads", (0,) * 2 * rank)
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    strides, dilations = attributes.get("strides", (1,) * rank), attributes.get("dilations", (1,) * rank)
    result: Tensor = convolve(values, kernel, bias, strides, pads[:rank], dilations, attributes.get("group", 1))
    return result


def _gather(attributes: Attributes, data: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % data.ndim
    places = torch.where(indices < 0, indices + data.shape[axis], indices)
    if axis == 0 and data.ndim == 2 and data.is_floating_point():
        return torch.nn.functional.embedding(places, data)
    taken = data.index_select(axis, places.reshape(-1))
    return taken.reshape((*data.shape[:axis], *places.shape, *data.shape[axis + 1 :]))


def _slice(
    _: Attributes,
    data: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = _integers(starts), _integers(ends)
    along = range(len(first)) if axes is None else _integers(axes)
    strides = [1] * len(first) if steps is None else _integers(steps)
    for start, end, axis, step in zip(first, last, along, strides, strict=True):
        places = range(data.shape[axis])[start:end:step]
        if step == 1:
            data = data.narrow(axis, places.start, len(places))
        else:
            data = data.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=data.device))
    return data


def _reshape(attributes: Attributes, data: Tensor, shape: Tensor) -> Tensor:
    sizes = _integers(shape)
    if not attributes.get("allowzero", 0):
        sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return data.reshape(sizes)


def _expand(_: Attributes, data: Tensor, shape: Tensor) -> Tensor:
    return data.expand(np.broadcast_shapes(tuple(data.shape), tuple(_integers(shape))))


def _unsqueeze(_: Attributes, data: Tensor, axes: Tensor) -> Tensor:
    wanted = _integers(axes)
    rank = data.ndim + len(wanted)
    return reduce(torch.unsqueeze, sorted(axis % rank for axis in wanted), data)


def _squeeze(_: Attributes, data: Tensor, axes: Tensor | None = None) -> Tensor:
    return data.squeeze() if axes is None else data.squeeze(tuple(_integers(axes)))


def _split(attributes: Attributes, data: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is not None:
        return torch.split(data, _integers(sizes), axis)
    return torch.split(data, -(-data.shape[axis] // attributes["num_outputs"]), axis)


def _flatten(attributes: Attributes, data: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return data.reshape(int(np.prod(data.shape[:axis], dtype=np.int64)), -1)


def _cumulative_sum(attributes: Attributes, data: Tensor, axis: Tensor) -> Tensor:
    place = int(axis)
    data = data.flip(place) if attributes.get("reverse") else data
    total = data.cumsum(place, dtype=data.dtype)
    total = total - data if attributes.get("exclusive") else total
    return total.flip(place) if attributes.get("reverse") else total


def _triangle(attributes: Attributes, data: Tensor, offset: Tensor | None = None) -> Tensor:
    cut = torch.triu if attributes.get("upper", 1) else torch.tril
    return cut(data, 0 if offset is None else int(offset))


def _range(_: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def _filled(attributes: Attributes, shape: Tensor) -> Tensor:
    value = torch.from_numpy(np.array(attributes.get("value", np.zeros(1, np.float32)))).to(shape.device)
    return value.reshape(()).expand(_integers(shape))


def _shape(attributes: Attributes, data: Tensor) -> Tensor:
    sizes = list(data.shape)[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(sizes, dtype=torch.int64, device=data.device)


def _scatter(_: Attributes, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    return data.index_put(tuple(indices.unbind(-1)), updates)


def _clip(_: Attributes, data: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return data if low is None and high is None else torch.clamp(data, low, high)


def _reduced(compute: Callable[..., Tensor]) -> Operator:
    """A reduction; its axes are an input, before opset 18 an attribute."""

    def reduction(attributes: Attributes, data: Tensor, axes: Tensor | None = None) -> Tensor:
        wanted = attributes.get("axes", range(data.ndim)) if axes is None else _integers(axes)
        return compute(data, tuple(wanted), bool(attributes.get("keepdims", 1)))

    return reduction


def _plain(compute: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda _, *inputs: compute(*inputs)


_PLAIN: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Identity": lambda data: data,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": lambda *inputs: reduce(torch.maximum, inputs),
    "Min": lambda *inputs: reduce(torch.minimum, inputs),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Tile": lambda data, repeats: data.repeat(_integers(repeats)),
    "Where": torch.where,
}

OPERATORS: Mapping[str, Operator] = {
    **{name: _plain(compute) for name, compute in _PLAIN.items()},
    "Cast": lambda attributes, data: data.to(ELEMENTS[attributes["to"]]),
    "Clip": _clip,
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "CumSum": _cumulative_sum,
    "Div": _divide,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": lambda attributes, data, indices: data.gather(attributes.get("axis", 0), indices),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "Range": _range,
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda attributes, data: torch.softmax(data, attributes.get("axis", -1)),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda attributes, data: data.permute(attributes.get("perm", tuple(range(data.ndim))[::-1])),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
"""All that `source.network` can compute, besides If."""


PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
"""Sums of products: an integer kernel takes them without an error, float32 does not."""


def is_known(node: Node) -> bool:
    """Whether `compute` takes a node: its operator stands in OPERATORS, and a ScatterND only writes."""
    return node.operator in OPERATORS and node.attributes.get("reduction", "none") == "none"


def compute(node: Node, inputs: list[Tensor | None], *, exact: bool = False) -> tuple[Tensor, ...]:
    """The outputs of a node that `is_known`; `exact`: those of float32 PRODUCTS are summed in double precision."""
    while inputs and inputs[-1] is None:
        inputs.pop()
    wide = exact and node.operator in PRODUCTS and all(one is None or one.dtype == torch.float32 for one in inputs)
    given = [None if one is None else one.double() for one in inputs] if wide else inputs
    result = OPERATORS[node.operator](node.attributes, *given)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(one.float() for one in results) if wide else results
