"""The parts of a model's size add up to its files."""

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.packing import pack_codes
from qonnx_pipe.graph.size import breakdown, low_bit_bytes, nominal_bytes, size_parts
from qonnx_pipe.graph.summary import summarise
from tests.unit.graph.lowerings.tiny import Layers, quantized
from tests.zoo import graphs

MATRIX, TABLE = graphs.WIDTH * graphs.WIDTH, 64 * graphs.WIDTH


def test_a_float_model(tmp_path):
    path = graphs.token_model(tmp_path / "m.onnx")
    parts = size_parts(path)
    assert (parts.weights, parts.embeddings, parts.scales) == (4 * MATRIX, 4 * TABLE, 0)
    assert parts.total == path.stat().st_size


def test_a_quantized_model(tmp_path):
    path = graphs.token_model(tmp_path / "m.onnx", quantized=True)
    parts = size_parts(path)
    table_scale, activation, weight_scales = 4 + 1, 4 + 1, 5 * graphs.WIDTH
    assert (parts.weights, parts.embeddings) == (MATRIX, TABLE)
    assert parts.scales == table_scale + activation + weight_scales
    assert parts.total == path.stat().st_size


def test_blocks_that_do_not_tell_their_bits_have_the_four_of_their_operator(tmp_path):
    """MatMulNBits needs no `bits`: 40 inputs in blocks of 16 are padded to 48, 3 outputs."""
    attributes = {"K": 40, "N": 3, "block_size": 16}
    operands = ["x", "codes", "scales", "zeros"]
    node = helper.make_node("MatMulNBits", operands, ["y"], "nbits", domain="com.microsoft", **attributes)
    ports = [[graphs.tensor(name, ["batch", size])] for name, size in (("x", 40), ("y", 3))]
    constants = {"codes": np.zeros((3, 3, 8), np.uint8), "scales": np.ones((3, 3), np.float32)}
    constants["zeros"] = np.zeros((3, 2), np.uint8)
    path = graphs.save(tmp_path / "m.onnx", [node], *ports, constants)
    parts = breakdown(path)
    assert (parts["weights"].bytes, parts["weights"].nominal_bytes) == (72, 60)
    assert (parts["scales"].bytes, parts["zero points"].bytes) == (36, 6)
    assert summarise(path).bits == {"other": {"4 bits": 120}}


def test_a_plain_weight_in_groups_has_zero_points_and_the_shape_of_its_reshape(tmp_path):
    """32 × 24 codes in groups of 8 inputs: 4 · 24 scales and zero points, float32 both; two numbers of a shape."""
    layers, spec = Layers("matmul"), QuantSpec(QTYPES["uint8"], PerGroup(0, 8), False)
    plan = layers.plan(None, spec, "integer")
    parts = breakdown(path := quantized(layers.save(tmp_path / "m.onnx"), plan, {}))
    held = {name: part.bytes for name, part in parts.items() if name != "graph"}
    assert held == {
        "weights": 768,
        "embeddings": 0,
        "scales": 384,
        "zero points": 384,
        "unpacking": 0,
        "constants": 16,
    }
    assert sum(part.bytes for part in parts.values()) == path.stat().st_size


def test_external_data_count(tmp_path):
    path = graphs.token_model(tmp_path / "m.onnx")
    inside = size_parts(path)
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    outside = size_parts(tmp_path / "e.onnx")
    assert (outside.weights, outside.embeddings) == (inside.weights, inside.embeddings)
    assert outside.total == (tmp_path / "e.onnx").stat().st_size + (tmp_path / "e.data").stat().st_size


def test_a_tied_table_counts_once_as_an_embedding(tmp_path):
    table = np.ones((graphs.WIDTH, graphs.WIDTH), np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "embed"),
        helper.make_node("MatMul", ["rows", "table"], ["y"], "head"),
    ]
    ids = graphs.tensor("ids", ["batch", "sequence"], onnx.TensorProto.INT64)
    output = graphs.tensor("y", ["batch", "sequence", graphs.WIDTH])
    parts = size_parts(graphs.save(tmp_path / "m.onnx", nodes, [ids], [output], {"table": table}))
    assert (parts.embeddings, parts.weights) == (table.nbytes, 0)


@pytest.mark.parametrize(("low", "high", "bits"), [(-2, 1, 2), (-3, 3, 3), (0, 7, 3), (-8, 7, 4), (-128, 127, 8)])
def test_codes_that_another_tool_left_in_bytes_are_counted_by_their_bits(tmp_path, low, high, bits):
    path = tmp_path / "m.onnx"
    codes = np.linspace(low, high, MATRIX).astype(np.int8).reshape(graphs.WIDTH, -1)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], "dequantize"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    ports = [[graphs.tensor(name, ["batch", graphs.WIDTH])] for name in ("x", "y")]
    graphs.save(path, nodes, *ports, {"codes": codes, "scale": np.float32(0.1)})
    assert path.stat().st_size - low_bit_bytes(path) == MATRIX * (8 - bits) // 8


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_nominal_and_real_bytes_of_packed_codes(tmp_path, bits):
    """Seven columns: the last byte of a plane is not full; what unpacks the codes counts as such."""
    rng, columns = np.random.default_rng(bits), 7
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (graphs.WIDTH - 1, columns)).astype(np.int8)
    codes[0, :2] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], "dequantize", axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    ports = [[graphs.tensor(name, ["batch", size])] for name, size in (("x", graphs.WIDTH - 1), ("y", columns))]
    constants = {"codes": codes, "scale": np.ones(columns, np.float32), "zero": np.zeros(columns, np.int8)}
    path = graphs.save(tmp_path / "m.onnx", nodes, *ports, constants)
    model = io.load(path)
    pack_codes(Emitter(model.graph))
    io.save(model, path)
    parts = breakdown(path)
    planes = {2: (2,), 3: (2, 1), 4: (4,), 6: (4, 2), 8: (8,)}[bits]
    assert nominal_bytes(parts) == parts["weights"].nominal_bytes == round(codes.size * bits / 8)
    assert codes.size * bits / 8 <= parts["weights"].bytes <= codes.size * bits / 8 + 4 * len(planes)
    assert (parts["scales"].bytes, parts["zero points"].bytes) == (4 * columns, columns)
    assert (parts["unpacking"].bytes > 0) == (bits in (2, 3, 6))  # 4 bits have a type of their own
    assert sum(part.bytes for part in parts.values()) == path.stat().st_size
    assert size_parts(path).total == path.stat().st_size
