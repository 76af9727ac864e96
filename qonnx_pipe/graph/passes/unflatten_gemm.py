"""A linear layer that flattens its input for a Gemm and restores the shape afterwards becomes MatMul and Add."""

from __future__ import annotations

import onnx_ir as ir

from qonnx_pipe.graph.constants import Constant, add_initializer, constant, integers
from qonnx_pipe.graph.dimensions import Copied, dimension, entries
from qonnx_pipe.graph.walk import consumers


class UnflattenGemm(ir.passes.InPlacePass):
    """Replace Reshape → Gemm → Reshape by MatMul → Add: integer kernels and shapes then survive.

    Cases:
        1. Gemm with a constant weight [in, out], with or without a constant bias (GPT-2's Conv1D).
        2. Gemm with transB = 1: the weight is stored transposed anew.

    Requires: the first Reshape flattens to [-1, in] and `in` is known to be the size of x's last axis, the last
    Reshape writes x's leading sizes and `out`, alpha = beta = 1, and nothing else uses the values in between;
    otherwise nothing changes. Ensures: the MatMul has the Gemm's name, the result the last Reshape's. What nothing
    uses any more is left for RemoveUnusedNodesPass. Subgraphs stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Try every Gemm."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "Gemm" and node.domain in ("", "ai.onnx") and (ends := _match(node)):
                _replace(model.graph, node, *ends)
                modified = True
        return ir.passes.PassResult(model, modified)


def _match(gemm: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """The x before the first Reshape, and the last Reshape."""
    weight = _weight(gemm)
    if weight is None or (len(gemm.inputs) > 2 and not _is_bias(gemm.inputs[2], weight.shape[1])):
        return None
    size_in, size_out = weight.shape
    flatten = gemm.inputs[0].producer() if gemm.inputs[0] is not None else None
    restore = _only_user(gemm.outputs[0])
    if flatten is None or restore is None or flatten.op_type != "Reshape" or restore.op_type != "Reshape":
        return None
    x = flatten.inputs[0]
    if x is None or x.shape is None or _only_user(flatten.outputs[0]) is None:
        return None
    rank = len(x.shape)
    if integers(flatten.inputs[1]) != (-1, size_in) or dimension(x, rank - 1) != size_in:
        return None
    return (x, restore) if _restores(restore.inputs[1], x, size_out) else None


def _replace(graph: ir.Graph, gemm: ir.Node, x: ir.Value, restore: ir.Node) -> None:
    weight = gemm.inputs[1]
    if weight is not None and _flag(gemm, "transB"):
        array = constant(weight)
        if array is not None:
            weight = add_initializer(graph, f"{weight.name}_transposed", array.T)
    matmul = ir.node("MatMul", [x, weight], name=gemm.name)
    new = [matmul]
    if len(gemm.inputs) > 2:
        matmul.outputs[0].name = gemm.outputs[0].name
        new.append(ir.node("Add", [matmul.outputs[0], gemm.inputs[2]], name=restore.name))
    ir.convenience.replace_nodes_and_values(
        graph, restore, [restore, gemm], new, list(restore.outputs), list(new[-1].outputs)
    )


def _restores(target: ir.Value | None, x: ir.Value, size_out: int) -> bool:
    """Whether `target` is x's shape with `size_out` as its last size."""
    wanted, rank = entries(target), len(x.shape or ())
    if wanted is None or len(wanted) != rank or wanted[-1] not in (size_out, -1):
        return False
    return all(
        entry.is_dimension(axis, x) if isinstance(entry, Copied) else entry == dimension(x, axis)
        for axis, entry in enumerate(wanted[:-1])
    )


def _weight(gemm: ir.Node) -> Constant | None:
    """The weight as [in, out], when the Gemm is a plain linear layer."""
    plain = not _flag(gemm, "transA") and all(_factor(gemm, name) == 1 for name in ("alpha", "beta"))
    array = constant(gemm.inputs[1])
    if not plain or array is None or array.ndim != 2:
        return None
    return array.T if _flag(gemm, "transB") else array


def _is_bias(value: ir.Value | None, size: int) -> bool:
    array = constant(value)
    return array is not None and array.shape == (size,)


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() == 1


def _factor(node: ir.Node, name: str) -> float:
    return node.attributes[name].as_float() if name in node.attributes else 1.0


def _only_user(value: ir.Value) -> ir.Node | None:
    users = consumers(value)
    return users[0] if len(users) == 1 and not value.is_graph_output() else None
