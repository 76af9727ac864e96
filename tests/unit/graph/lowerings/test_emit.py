"""Quantizers narrower than their storage: codes stop at the type's own ends."""

import numpy as np
import pytest
from onnx import helper

from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from tests.unit.graph.lowerings.tiny import per_tensor, run
from tests.zoo import graphs


@pytest.mark.parametrize("dtype", ["uint6", "int6", "uint4", "uint8"])
def test_values_outside_the_range_saturate_as_in_numpy(tmp_path, dtype):
    shape = ["batch", 16]
    nodes = [helper.make_node("Identity", ["x"], ["y"], "same")]
    path = graphs.save(tmp_path / "float.onnx", nodes, [graphs.tensor("x", shape)], [graphs.tensor("y", shape)], {})
    x = np.linspace(-9, 9, 64, dtype=np.float32).reshape(4, 16)
    encoding = per_tensor(x / 3, dtype)
    model = io.load(path)
    emit = Emitter(model.graph)
    (node,) = list(model.graph)
    codes = emit.quantize(model.graph.inputs[0], encoding, "x")
    emit.replace(node, emit.dequantize(codes, "x"))
    model.graph.sort()
    io.save(model, tmp_path / "quantized.onnx")
    (found,) = run(tmp_path / "quantized.onnx", x=x)
    np.testing.assert_array_equal(found, fake_quantize(x, encoding))
