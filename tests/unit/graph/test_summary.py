"""What a file holds: ports, operators, metadata, bits by layer."""

import json

import numpy as np
from onnx import TensorProto, helper

from qonnx_pipe.core.port import Port
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.packing import pack_codes
from qonnx_pipe.graph.summary import id2label, summarise
from tests.zoo import graphs


def test_ports_operators_and_opset(tmp_path):
    summary = summarise(graphs.token_model(tmp_path / "m.onnx"))
    assert summary.opset == graphs.OPSET
    assert summary.operators == {"Gather": 1, "MatMul": 1, "Add": 1}
    assert summary.inputs[0] == Port("input_ids", "int64", ("batch", "sequence"))
    assert summary.outputs == (Port("last_hidden_state", "float", ("batch", "sequence", graphs.WIDTH)),)


def test_bits_by_layer_are_counted_behind_dequantizers(tmp_path):
    matrix = graphs.weight()
    dequantize, constants = graphs.quantized_weight("w", matrix)
    nodes = [
        *dequantize,
        helper.make_node("MatMul", ["x", "w"], ["h"], "/encoder/layer.0/dense/MatMul"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "/encoder/layer.1/dense/MatMul"),
    ]
    shape = ["batch", "sequence", graphs.WIDTH]
    ports = [graphs.tensor("x", shape)], [graphs.tensor("y", shape)]
    path = graphs.save(tmp_path / "m.onnx", nodes, *ports, {**constants, "v": matrix.astype(np.float32)})
    assert summarise(path).bits == {"layer.0": {"int8": matrix.size}, "layer.1": {"float": matrix.size}}


def test_bits_by_layer_are_counted_behind_plain_arithmetic(tmp_path):
    """Codes of 3 bits in two planes → Cast → Mul → Reshape → MatMul: only the last has the layer's name."""
    codes = (np.arange(graphs.WIDTH * graphs.WIDTH) % 8 - 4).astype(np.int8).reshape(4, -1, graphs.WIDTH)
    nodes = [
        helper.make_node("Cast", ["codes"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"], "/encoder/layer.1/dense/MatMul"),
    ]
    shape = ["batch", "sequence", graphs.WIDTH]
    constants = {"codes": codes, "scale": np.ones((4, 1, 1), np.float32), "shape": np.int64([-1, graphs.WIDTH])}
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("x", shape)], [graphs.tensor("y", shape)], constants)
    model = io.load(path)
    pack_codes(Emitter(model.graph))
    model.graph.sort()
    io.save(model, path)
    assert summarise(path).bits == {"layer.1": {"3 bits": codes.size}}


def test_class_names_come_from_the_metadata_before_config_json(tmp_path):
    path = graphs.token_model(tmp_path / "m.onnx", classes=("no", "yes"))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "wrong"}}))
    assert id2label(path) == {"0": "no", "1": "yes"}
    assert id2label(graphs.token_model(tmp_path / "other.onnx")) == {"0": "wrong"}
    assert id2label(graphs.token_model(tmp_path / "alone" / "m.onnx")) == {}
