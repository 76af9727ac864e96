"""Embedding tables: codes are gathered, and only the gathered rows become real numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.numerics import fake_quantize
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings import gather
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.graph.size import breakdown
from qonnx_pipe.graph.summary import summarise
from tests.unit.graph.lowerings.tiny import WIDTH, encode, outliers, quantized, run, table
from tests.zoo import graphs

ROWS = 40
TABLE = outliers(ROWS, WIDTH) * np.linspace(0.1, 3, ROWS, dtype=np.float32)[:, None]
INT8, UINT8 = QTYPES["int8"], QTYPES["uint8"]
SPECS = [
    QuantSpec(INT8, PerTensor(), True),
    QuantSpec(UINT8, PerTensor(), False),
    QuantSpec(INT8, PerChannel(1), True),
    QuantSpec(UINT8, PerChannel(1), False),
    QuantSpec(INT8, PerChannel(0), True),
    QuantSpec(UINT8, PerChannel(0), False),
    QuantSpec(QTYPES["int4"], PerChannel(1), True),
    QuantSpec(QTYPES["int2"], PerGroup(1, 8), True),
    QuantSpec(QTYPES["uint4"], PerGroup(1, 8), False),
]


def lookups(path, *, tied=False):
    """Two Gathers of one table; `tied`: a head reads its transpose too."""
    nodes = [helper.make_node("Gather", ["table", f"ids{i}"], [f"y{i}"], f"gather{i}") for i in range(2)]
    outputs = [graphs.tensor("y0", ["batch", "sequence", WIDTH]), graphs.tensor("y1", ["count", WIDTH])]
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["turned"], "transpose", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["y0", "turned"], ["logits"], "head"))
        outputs.append(graphs.tensor("logits", ["batch", "sequence", ROWS]))
    inputs = [
        graphs.tensor("ids0", ["batch", "sequence"], TensorProto.INT64),
        graphs.tensor("ids1", ["count"], TensorProto.INT64),
    ]
    return graphs.save(path, nodes, inputs, outputs, {"table": TABLE})


def plan(spec, lowering="gather_dq"):
    return QuantPlan("cpu", "matmul_inputs", (table("table", "gather0", "gather1", spec=spec, lowering=lowering),))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rows_are_exactly_what_their_codes_say(tmp_path, spec):
    path = quantized(lookups(tmp_path / "m.onnx"), plan(spec), {})
    ids = np.int64([[0, 39, 7], [7, 3, 3]]), np.int64([5, 5])
    encoding, _ = encode(plan(spec).entries[0], TABLE)
    expected = fake_quantize(TABLE, encoding)
    for found, rows in zip(run(path, ids0=ids[0], ids1=ids[1]), ids, strict=True):
        np.testing.assert_array_equal(found, expected[rows])


@pytest.mark.parametrize(("short", "order"), [(ROWS, ["Cast", "Mul", "Gather", "Gather"]), (ROWS - 1, None)])
def test_a_short_table_becomes_floats_once_a_long_one_row_by_row(tmp_path, monkeypatch, short, order):
    monkeypatch.setattr(gather, "SHORT", short)
    path = quantized(lookups(tmp_path / "m.onnx"), plan(SPECS[2]), {})
    ids = np.int64([[0, 39, 7], [7, 3, 3]]), np.int64([5, 5])
    encoding, _ = encode(plan(SPECS[2]).entries[0], TABLE)
    for found, rows in zip(run(path, ids0=ids[0], ids1=ids[1]), ids, strict=True):
        np.testing.assert_array_equal(found, fake_quantize(TABLE, encoding)[rows])
    made = [node.op_type for node in onnx.load(path).graph.node]
    assert made == order if order else sorted(made) == sorted(["Gather", "Cast", "Mul"] * 2)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_codes_are_stored_once_and_the_floats_not_at_all(tmp_path, spec):
    initializers = onnx.load(quantized(lookups(tmp_path / "m.onnx"), plan(spec), {})).graph.initializer
    codes = [one for one in initializers if one.data_type != TensorProto.FLOAT]
    assert [len(one.raw_data) for one in codes].count(ROWS * WIDTH * spec.dtype.bits // 8) == 1
    assert all(
        one.data_type != TensorProto.FLOAT or np.prod(one.dims) <= max(ROWS, WIDTH, ROWS * WIDTH // 8)
        for one in initializers
    )


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (SPECS[0], (1280, 4, 1)),  # DequantizeLinear with a zero point
        (SPECS[1], (1280, 4, 1)),
        (SPECS[2], (1280, 128, 0)),
        (SPECS[3], (1280, 128, 32)),
        (SPECS[4], (1280, 160, 0)),
        (SPECS[5], (1280, 160, 40)),
        (SPECS[6], (640, 128, 0)),
        (SPECS[7], (320, 640, 0)),  # four groups a row
        (SPECS[8], (640, 640, 80)),  # zero points of four bits are packed too
    ],
    ids=str,
)
def test_the_size_tells_codes_from_scales_and_zero_points(tmp_path, spec, sizes):
    path = quantized(lookups(tmp_path / "m.onnx"), plan(spec), {})
    parts = breakdown(path)
    assert tuple(parts[name].bytes for name in ("embeddings", "scales", "zero points")) == sizes
    assert summarise(path).bits["other"].keys() <= {"int8", "uint8", f"{spec.dtype.bits} bits"}


def test_a_tied_head_keeps_its_float_table(tmp_path):
    path = quantized(lookups(tmp_path / "m.onnx", tied=True), plan(SPECS[2]), {})
    y, _, logits = run(path, ids0=np.int64([[1, 2]]), ids1=np.int64([0]))
    np.testing.assert_allclose(logits, y @ TABLE.T, rtol=1e-5, atol=1e-3)  # float32 sums of 32 products up to 1e4


def test_groups_of_rows_are_refused(tmp_path):
    encoding = Encoding(INT8, PerGroup(0, 20), np.ones((2, WIDTH), np.float32), np.zeros((2, WIDTH), np.int32))
    with pytest.raises(ValueError, match="not lowered per_group"):
        quantize(
            io.load(lookups(tmp_path / "m.onnx")),
            plan(SPECS[0]),
            {},
            lambda _, values: (encoding, np.zeros(values.shape, np.int8)),
        )
