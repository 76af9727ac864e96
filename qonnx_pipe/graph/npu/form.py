"""Form: a float encoder as an NPU takes it: static shapes, rows into Gemms, a mask of 0 and −100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from qonnx_pipe.errors import MissingDependency, ModelError
from qonnx_pipe.graph.constants import constant, scalar
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from qonnx_pipe.graph.walk import Linear, consumers, is_constant, linears, read_once, through_moves

MASKED = -100.0
"""What is added to the scores of padding: e⁻¹⁰⁰ is 0 in float32, and the step of its 8-bit codes still 0.4."""

MASK = "attention_mask"
"""Name of the input that says what is padding."""


@dataclass(frozen=True, eq=False)
class Form:
    """What became of a model's tensors, by the names that they had.

    `homes`: the value that holds a tensor's elements now, where they are computed. `factors`: what a tensor's values
    were multiplied by.
    """

    homes: Mapping[str, ir.Value]
    factors: Mapping[str, float]


def npu_form(model: ir.Model, shape: tuple[int, int]) -> Form:
    """Rewrite `model` in place for inputs [batch, sequence].

    1. Symbolic dimensions become numbers, and all that is computed from shapes alone becomes constant.
    2. The mask that is added to the scores becomes (mask − 1) · 100: its constant near −3.4e38 would leave nothing of
       an 8-bit range, and its Where would be no integer operator.
    3. A constant that multiplies the output of a linear layer (1/√d), or scores, goes into the layer that gives them.
    4. MatMul → Add of a bias becomes Reshape to rows → Gemm → Reshape: one operator with a 32-bit bias. Reshapes
       behind each other become one. The weight of a Gemm is stored [in, out].
    5. Positions that are added to every row of a batch stand in the file once for each row.

    Raises ModelError for inputs that are no tokens, a shape that the model cannot have and a mask that is not added,
    MissingDependency without onnxscript.
    """
    _make_static(model, shape)
    emit = Emitter(model.graph)
    _replace_masks(emit)
    _repeat_positions(emit)
    _tidy(model)
    origins = {str(value.name): through_moves(value) for node in model.graph for value in node.outputs}
    absorbed = _absorb_factors(emit)
    products = _to_gemms(emit)
    _tidy(model)
    _merge_reshapes(emit)
    _tidy(model)
    sources = {name: absorbed[origin][0] if origin in absorbed else origin for name, origin in origins.items()}
    return Form(
        {name: products.get(source, source) for name, source in sources.items()},
        {name: absorbed[origin][1] for name, origin in origins.items() if origin in absorbed},
    )


def _make_static(model: ir.Model, shape: tuple[int, int]) -> None:
    try:
        from onnxscript.optimizer import fold_constants_ir
    except ImportError as error:
        raise MissingDependency("a static shape needs onnxscript", fix="pip install 'qonnx-pipe[qnn]'") from error
    sizes = dict(enumerate(shape))
    for value in model.graph.inputs:
        known = value.shape or ()
        if len(known) > len(shape):
            what = f"input {value.name!r} of rank {len(known)} holds no tokens [batch, sequence]"
            raise ModelError(what, where=str(model.graph.name), fix="quantize it for target cpu or openvino")
        value.shape = ir.Shape([size if isinstance(size, int) else sizes[axis] for axis, size in enumerate(known)])
    for value in (output for node in model.graph for output in node.outputs):
        value.shape = None
    InferShapes()(model)
    with np.errstate(all="ignore"):  # relative positions take the logarithm of 0, and leave it out
        fold_constants_ir(model, onnx_shape_inference=True, input_size_limit=2**31, output_size_limit=2**24)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _tidy(model)
    for node in model.graph:
        if any(value.shape is None or not value.shape.is_static() for value in node.outputs):
            what = f"{node.op_type} gives no static shape for inputs {list(shape)}"
            raise ModelError(what, where=str(node.name), fix="give a sequence that the model has positions for")


def _tidy(model: ir.Model) -> None:
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    InferShapes()(model)


def _repeat_positions(emit: Emitter) -> None:
    """A constant [1, tokens, d] that is added to each row of a batch, once for each.

    HTP's simulator (package 2.7.0) gives wrong rows behind the first where it broadcasts one in 16 bits in front of a
    LayerNormalization.
    """
    for node in [node for node in emit.graph if node.op_type == "Add"]:
        shape = node.outputs[0].shape
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or shape is None or array.ndim != 3:
                continue
            if array.shape == (1, *shape.numpy()[1:]):
                repeated = np.repeat(array, int(shape.numpy()[0]), axis=0)
                node.replace_input_with(index, emit.constant(f"{value.name}_repeated", repeated))


def _replace_masks(emit: Emitter) -> None:
    mask = next((value for value in emit.graph.inputs if value.name == MASK), None)
    if mask is None:
        return
    made: ir.Value | None = None
    for softmax in [node for node in emit.graph if node.op_type == "Softmax"]:
        if softmax.inputs[0] is None or mask not in _ancestors(softmax.inputs[0]):
            continue
        place = _mask_place(softmax.inputs[0], mask)
        if place is None:
            what, fix = "the attention mask is not added to the scores", "export the model with eager attention"
            raise ModelError(what, where=str(softmax.name), fix=fix)
        made = made or _mask(emit, mask)
        place[0].replace_input_with(place[1], made)


def _mask_place(value: ir.Value, mask: ir.Value) -> tuple[ir.Node, int] | None:
    """The Add in front of a Softmax, and its input that comes from the mask and from no linear layer."""
    node = value.producer()
    while node is not None and node.op_type == "Add":
        behind = [_ancestors(operand) if operand is not None else set() for operand in node.inputs]
        alone = [i for i in (0, 1) if mask in behind[i] and not any(map(_is_linear_output, behind[i]))]
        if alone:
            return node, alone[0]
        node = next(
            (v.producer() for v, b in zip(node.inputs, behind, strict=True) if v is not None and mask in b), None
        )
    return None


def _is_linear_output(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in ("MatMul", "Gemm")


def _ancestors(value: ir.Value) -> set[ir.Value]:
    found, frontier = {value}, [value]
    for current in frontier:
        node = current.producer()
        for operand in () if node is None else node.inputs:
            if operand is not None and operand not in found:
                found.add(operand)
                frontier.append(operand)
    return found


def _mask(emit: Emitter, mask: ir.Value) -> ir.Value:
    """(mask − 1) · 100, of shape [batch, 1, 1, tokens]."""
    (real,) = emit.node("Cast", (mask,), "mask_Cast", {"to": int(ir.DataType.FLOAT)})
    axes = emit.constant("mask_axes", np.asarray([1, 2], np.int64))
    (wide,) = emit.node("Unsqueeze", (real, axes), "mask_Unsqueeze")
    (less,) = emit.node("Sub", (wide, emit.constant("mask_one", np.ones(1, np.float32))), "mask_Sub")
    return emit.node("Mul", (less, emit.constant("mask_factor", np.full(1, -MASKED, np.float32))), "mask_Mul")[0]


def _absorb_factors(emit: Emitter) -> dict[ir.Value, tuple[ir.Value, float]]:
    """The layer's output that holds a value now, and what it was multiplied by, for all values around a factor."""
    outputs = {linear.output: linear for linear in linears(emit.graph)}
    absorbed: dict[ir.Value, tuple[ir.Value, float]] = {}
    for node in [node for node in emit.graph if node.op_type in ("Mul", "Div")]:
        number, other = scalar(node.inputs[1]), node.inputs[0]
        if number is None and node.op_type == "Mul":
            number, other = scalar(node.inputs[0]), node.inputs[1]
        if number is None or other is None or is_constant(other):
            continue
        route = _route(other, node, outputs)
        if not route:
            continue
        factor = number if node.op_type == "Mul" else 1 / number
        _scale(emit, outputs[route[-1]], factor)
        absorbed |= {value: (value, 1.0) for value in route if value not in absorbed}
        absorbed |= {value: (home, f * factor) for value, (home, f) in absorbed.items() if home in route}
        absorbed[node.outputs[0]] = route[0], 1.0
        node.outputs[0].replace_all_uses_with(other)
        emit.remove(node)
    return absorbed


def _route(value: ir.Value, node: ir.Node, outputs: Mapping[ir.Value, Linear]) -> tuple[ir.Value, ...]:
    """What a factor in `node` passes on its way back into a linear layer: that layer's output, behind it a product."""
    route: list[ir.Value] = []
    while _only_leads_to(origin := through_moves(value), node):
        route.append(origin)
        before = origin.producer()
        if origin in outputs or before is None or before.op_type != "MatMul" or before.inputs[0] is None:
            return tuple(route) if origin in outputs else ()
        node, value = before, before.inputs[0]
    return ()


def _only_leads_to(value: ir.Value, node: ir.Node) -> bool:
    """Whether data movement takes `value` to `node` and nowhere else."""
    while read_once(value):
        (reader,) = consumers(value)
        if reader is node:
            return True
        value = reader.outputs[0]
    return False


def _scale(emit: Emitter, linear: Linear, factor: float) -> None:
    weight = linear.node.inputs[1]  # another factor may have come before
    scaled = np.asarray(constant(weight), np.float32) * np.float32(factor)
    linear.node.replace_input_with(1, emit.constant(f"{linear.weight.name}_scaled", scaled))
    if linear.bias is not None:
        node, index = linear.bias
        bias = np.asarray(constant(node.inputs[index]), np.float32) * np.float32(factor)
        node.replace_input_with(index, emit.constant(f"{linear.name}_bias_scaled", bias))


def _to_gemms(emit: Emitter) -> dict[ir.Value, ir.Value]:
    """The Gemm's output by the output that each linear layer had."""
    rows: dict[ir.Value, ir.Value] = {}
    products: dict[ir.Value, ir.Value] = {}
    for linear in linears(emit.graph):
        source, shape = linear.source, linear.output.shape
        if linear.transposed:
            _store_upright(emit, linear)
        if linear.node.op_type == "Gemm" or shape is None or source.shape is None:
            continue
        if source not in rows:
            rows[source] = _reshaped(emit, source, (-1, linear.shape[0]), f"{source.name}_rows")
        bias = () if linear.bias is None else (linear.bias[0].inputs[linear.bias[1]],)
        (product,) = emit.node("Gemm", (rows[source], linear.weight, *bias), f"{linear.name}_Gemm")
        product.type = linear.output.type
        product.shape = ir.Shape((int(np.prod(source.shape.numpy()[:-1])), linear.shape[1]))
        old = linear.output.producer()
        assert old is not None
        products[linear.output] = product
        emit.replace(old, _reshaped(emit, product, tuple(shape.numpy()), f"{linear.name}_shaped"))
        if old is not linear.node:
            emit.remove(linear.node)
        gemm = product.producer()
        assert gemm is not None
        gemm.name = linear.name
    return products


def _store_upright(emit: Emitter, gemm: Linear) -> None:
    upright = np.ascontiguousarray(np.asarray(constant(gemm.weight)).T)
    gemm.node.replace_input_with(1, emit.constant(f"{gemm.weight.name}_upright", upright))
    del gemm.node.attributes["transB"]


def _reshaped(emit: Emitter, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    (result,) = emit.node("Reshape", (value, emit.constant(f"{name}_shape", np.asarray(shape, np.int64))), name)
    result.type = value.type
    return result


def _merge_reshapes(emit: Emitter) -> None:
    for node in [node for node in emit.graph if node.op_type == "Reshape"]:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        shape = node.outputs[0].shape
        if before is None or before.op_type != "Reshape" or shape is None or node.inputs[0] is None:
            continue
        if node.inputs[0].is_graph_output():
            continue
        node.replace_input_with(0, before.inputs[0])
        sizes = emit.constant(f"{node.name}_shape", np.asarray(shape.numpy(), np.int64))
        node.replace_input_with(1, sizes)
