"""Moves: a quantizer of signed codes is repeated behind what moves its values, and no other is."""

import numpy as np
import onnx_ir as ir
import pytest

from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.moves import quantize_moved


def operators(source: str, dtype: type, scale: object, opset: int = 21) -> list[str]:
    """What is in x → `source` → DequantizeLinear → Transpose → Neg afterwards, in order."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]))
    graph = ir.Graph((x,), (), nodes=(), name="g", opset_imports={"": opset})
    emit = Emitter(graph)
    steps = emit.constant("scale", np.asarray(scale, np.float32))
    zero = emit.constant("zero", np.zeros(np.shape(scale), dtype))
    if source == "QuantizeLinear":
        (codes,) = emit.node(source, (x, steps, zero), "codes")
    else:
        (codes,) = emit.node(source, (emit.constant("table", np.zeros((4, 3), dtype)), x), "codes")
    codes.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    (real,) = emit.node("DequantizeLinear", (codes, steps, zero), "real")
    (moved,) = emit.node("Transpose", (real,), "moved")
    (last,) = emit.node("Neg", (moved,), "last")
    graph.outputs.append(last)
    quantize_moved(emit)
    graph.sort()
    return [node.op_type for node in graph]


AS_IT_WAS = ["QuantizeLinear", "DequantizeLinear", "Transpose", "Neg"]


def test_signed_codes_of_one_scale() -> None:
    assert operators("QuantizeLinear", np.int8, 0.5) == [*AS_IT_WAS[:3], *AS_IT_WAS[:2], "Neg"]


@pytest.mark.parametrize(
    ("dtype", "scale", "opset"), [(np.uint8, 0.5, 21), (np.int8, [1, 2, 3], 21), (np.int8, 0.5, 20)]
)
def test_what_onnxruntime_leaves_alone(dtype: type, scale: object, opset: int) -> None:
    assert operators("QuantizeLinear", dtype, scale, opset) == AS_IT_WAS


@pytest.mark.parametrize("scale", [0.5, [1, 2, 3]])
def test_rows_of_a_table_are_no_activation(scale: object) -> None:
    assert operators("Gather", np.int8, scale) == ["Gather", *AS_IT_WAS[1:]]
