"""Tied tables: rows and a head read the same codes, which the file holds once; what cannot share stays float."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.tied import tied_heads, tying_obstacle
from qonnx_pipe.graph.size import breakdown, low_bit_bytes
from tests.unit.graph.lowerings.tiny import encode, kernels, outliers, quantized, run, table
from tests.zoo import graphs

ROWS, WIDTH = 40, 96
"""96 values are three blocks of 32."""

TABLE = outliers(ROWS, WIDTH) * np.linspace(0.1, 3, ROWS, dtype=np.float32)[:, None]
SPECS = [
    QuantSpec(QTYPES[dtype], granularity, symmetric, accuracy_level=level)
    for dtype in ("int2", "uint2", "int4", "uint4", "int8", "uint8")
    for granularity in (PerChannel(0), PerGroup(1, 16), PerGroup(1, 32))
    for symmetric, level in ((True, 4), (False, 0))
    if symmetric or not dtype.endswith("4") or granularity == PerGroup(1, 16)
]
IDS = np.int64([[0, 39, 7], [-1, 3, 3]])
EPSILON = 2.0**-24


def language_model(path, *, heads=1, extra=(), lookups=1):
    """Rows of one table, and `heads` that multiply something by its transpose; `extra` nodes with their ranks."""
    nodes = [helper.make_node("Gather", ["table", "ids"], [f"y{i}"], f"gather{i}") for i in range(lookups)]
    nodes += [helper.make_node("Transpose", ["table"], ["turned"], "transpose", perm=[1, 0])]
    nodes += [helper.make_node("MatMul", ["x", "turned"], [f"logits{i}"], f"head{i}") for i in range(heads)]
    outputs = [graphs.tensor(f"y{i}", ["batch", "sequence", WIDTH]) for i in range(lookups)]
    outputs += [graphs.tensor(f"logits{i}", ["batch", "sequence", ROWS]) for i in range(heads)]
    outputs += [graphs.tensor(node.output[0], ["batch", "rows", "columns"][-rank:]) for node, rank in extra]
    inputs = [
        graphs.tensor("ids", ["batch", "sequence"], TensorProto.INT64),
        graphs.tensor("x", ["batch", "sequence", WIDTH]),
    ]
    return graphs.save(path, [*nodes, *(node for node, _ in extra)], inputs, outputs, {"table": TABLE})


def plan(spec, *feeds):
    entry = table("table", *(feeds or ("gather0",)), spec=spec, lowering="gather_nbits")
    return QuantPlan("cpu", "matmul_inputs", (entry,))


def real(spec):
    """The table as its codes read, float64."""
    encoding, codes = encode(plan(spec).entries[0], TABLE)
    size = WIDTH // encoding.scale.reshape(ROWS, -1).shape[1]
    scale, zero = (np.repeat(part.reshape(ROWS, -1), size, axis=1) for part in (encoding.scale, encoding.zero_point))
    return (codes.astype(np.int64) - zero) * scale.astype(np.float64)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rows_and_products_are_what_the_codes_say(tmp_path, spec):
    path = quantized(language_model(tmp_path / "m.onnx", heads=2), plan(spec), {})
    x = np.random.default_rng(1).normal(0, 1, (2, 3, WIDTH)).astype(np.float32)
    rows, *products = run(path, ids=IDS, x=x)
    np.testing.assert_array_equal(rows, real(spec)[IDS].astype(np.float32))
    magnitudes = np.abs(x) @ np.abs(real(spec)).T
    # In float: n roundings of sums (Higham, §3.1). In 8 bits: half a step of each x, 1/254 of the block's largest.
    bound = (WIDTH + 4) * EPSILON * magnitudes
    if spec.accuracy_level:
        bound = bound + np.abs(x).max(-1, keepdims=True) / 254 * np.abs(real(spec)).sum(1)
    for product in products:
        assert (np.abs(product - x @ real(spec).T) <= bound).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_file_holds_the_codes_once(tmp_path, spec):
    path = quantized(language_model(tmp_path / "m.onnx"), plan(spec), {})
    parts = breakdown(path)
    assert parts["embeddings"].bytes == parts["embeddings"].nominal_bytes == ROWS * WIDTH * spec.dtype.bits // 8
    assert parts["weights"].bytes == 0
    assert sum(part.bytes for part in parts.values()) == path.stat().st_size == low_bit_bytes(path)


@pytest.mark.parametrize("level", [0, 4])
def test_the_head_is_counted_by_its_kernel(tmp_path, level):
    source = language_model(tmp_path / "m.onnx")
    x = np.ones((2, 3, WIDTH), np.float32)
    (before,) = kernels(source, ids=IDS, x=x).nodes
    assert (before.node, before.integer, before.reason) == ("head0", False, "weight not quantized")
    spec = QuantSpec(QTYPES["int4"], PerChannel(0), True, accuracy_level=level)
    (after,) = kernels(quantized(source, plan(spec), {}), ids=IDS, x=x).nodes
    assert (after.kernel, after.integer) == ("MatMulNBits", level == 4)
    assert ("float below accuracy_level 4" in after.reason) is (level == 0)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (("int4", PerChannel(0), True), ""),
        (("uint8", PerChannel(0), False), ""),
        (("uint2", PerGroup(1, 32), False), ""),
        (("uint4", PerGroup(1, 16), False), ""),
        (("uint4", PerChannel(0), False), "even number of blocks a row, not 3"),
        (("int3", PerChannel(0), True), "2, 4 or 8 bits, not 3"),
        (("int8", PerChannel(1), True), "not per_channel"),
        (("int8", PerTensor(), True), "not per_tensor"),
        (("int4", PerGroup(1, 8), True), "not per_group(8)"),
        (("int4", PerGroup(1, 64), True), "not per_group(64) in rows of 96"),
    ],
)
def test_which_codes_both_can_read(tmp_path, spec, why):
    dtype, granularity, symmetric = spec
    held = io.load(language_model(tmp_path / "m.onnx")).graph.initializers["table"]
    reason = tying_obstacle(held, ("gather0",), QuantSpec(QTYPES[dtype], granularity, symmetric))
    assert why in reason
    assert bool(reason) is bool(why)


def test_rows_of_an_odd_width_have_no_common_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.graph.lowerings.test_tied.WIDTH", 24)
    monkeypatch.setattr("tests.unit.graph.lowerings.test_tied.TABLE", TABLE[:, :24])
    held = io.load(language_model(tmp_path / "m.onnx")).graph.initializers["table"]
    assert "in rows of 24" in tying_obstacle(held, ("gather0",), QuantSpec(QTYPES["int4"], PerChannel(0), True))


@pytest.mark.parametrize(
    ("options", "lookups"),
    [
        ({"lookups": 2}, ("gather0",)),  # a lookup that is no part of the embedding
        ({"extra": [(helper.make_node("Neg", ["table"], ["negative"], "neg"), 2)]}, ("gather0",)),
        ({"extra": [(helper.make_node("Neg", ["turned"], ["negative"], "neg"), 2)]}, ("gather0",)),
        ({"extra": [(helper.make_node("MatMul", ["turned", "table"], ["other"], "left"), 2)]}, ("gather0",)),
    ],
)
def test_other_readers_want_the_floats(tmp_path, options, lookups):
    held = io.load(language_model(tmp_path / "m.onnx", **options)).graph.initializers["table"]
    spec = QuantSpec(QTYPES["int4"], PerChannel(0), True)
    assert tying_obstacle(held, lookups, spec) == "something else than a lookup and a head reads it"
    assert [head.name for head in tied_heads(held)] == ["head0"]


def test_a_float_table_is_left_out_of_the_file(tmp_path):
    spec = QuantSpec(QTYPES["int4"], PerChannel(0), True)
    made = onnx.load(quantized(language_model(tmp_path / "m.onnx"), plan(spec), {}))
    assert "table" not in {one.name for one in made.graph.initializer}
    assert {node.op_type for node in made.graph.node} >= {"GatherBlockQuantized", "Reshape", "MatMulNBits"}
    assert "head0_nbits" in {node.name for node in made.graph.node}
