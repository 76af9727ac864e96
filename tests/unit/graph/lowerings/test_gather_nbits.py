"""Packed tables: GatherBlockQuantized gives exactly what the codes say, and the session never unpacks them."""

import numpy as np
import onnx
import pytest

from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.lowerings.gather_nbits import packing_obstacle
from qonnx_pipe.graph.size import low_bit_bytes, size_parts
from qonnx_pipe.graph.summary import summarise
from qonnx_pipe.runtime.census import profile
from tests.unit.graph.lowerings.test_gather import ROWS, TABLE, lookups, plan
from tests.unit.graph.lowerings.tiny import WIDTH, encode, quantized, run

SPECS = [
    QuantSpec(QTYPES[dtype], granularity, symmetric)
    for dtype in ("int2", "uint2", "int4", "uint4")
    for granularity in (PerChannel(0), PerGroup(1, 16), PerGroup(1, 32))
    for symmetric in (True, False)
    if symmetric or dtype.endswith("2") or granularity == PerGroup(1, 16)
]
IDS = {"ids0": np.int64([[0, 39, 7], [-1, 3, 3]]), "ids1": np.int64([5, 5])}


def packed(tmp_path, spec):
    return quantized(lookups(tmp_path / "m.onnx"), plan(spec, "gather_nbits"), {})


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rows_are_exactly_what_their_codes_say(tmp_path, spec) -> None:
    encoding, codes = encode(plan(spec).entries[0], TABLE)
    size = spec.granularity.size if isinstance(spec.granularity, PerGroup) else WIDTH
    scale, zero = (np.repeat(part.reshape(ROWS, -1), size, axis=1) for part in (encoding.scale, encoding.zero_point))
    expected = (codes.astype(np.int32) - zero).astype(np.float32) * scale
    for found, rows in zip(run(packed(tmp_path, spec), **IDS), IDS.values(), strict=True):
        np.testing.assert_array_equal(found, expected[rows])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_file_and_the_session_hold_the_bits_of_the_codes_once(tmp_path, spec) -> None:
    path, bits = packed(tmp_path, spec), spec.dtype.bits
    parts = size_parts(path)
    assert parts.embeddings == ROWS * WIDTH * bits // 8
    assert parts.total == path.stat().st_size == low_bit_bytes(path)
    assert summarise(path).bits == {"other": {f"{bits} bits": ROWS * WIDTH}}
    opened = onnx.load(profile(path, IDS, tmp_path, runs=1).optimized)
    assert {node.op_type for node in opened.graph.node} == {"GatherBlockQuantized"}
    kept = [one for one in opened.graph.initializer if one.data_type == onnx.TensorProto.UINT8]
    assert max(np.prod(one.dims) for one in kept) == ROWS * WIDTH * bits // 8


def test_a_row_that_is_no_power_of_two_is_one_block(tmp_path, monkeypatch) -> None:
    """24 values are less than a block of 32; 6 of 4 bits are less than the least block, 16."""
    for width in (24, 6):
        monkeypatch.setattr("tests.unit.graph.lowerings.test_gather.TABLE", TABLE[:, :width])
        monkeypatch.setattr("tests.unit.graph.lowerings.test_gather.WIDTH", width)
        spec = QuantSpec(QTYPES["int4"], PerChannel(0), True)
        encoding, codes = encode(plan(spec).entries[0], TABLE[:, :width])
        found, _ = run(packed(tmp_path, spec), **IDS)
        np.testing.assert_array_equal(found, (codes * encoding.scale[:, None])[IDS["ids0"]])


@pytest.mark.parametrize(
    ("spec", "width", "why"),
    [
        (("int4", PerChannel(0), True), 384, ""),
        (("uint2", PerGroup(1, 16), True), 384, ""),
        (("int2", PerChannel(0), True), 6, "6 codes of 2 bits are no whole bytes"),
        (("int4", PerChannel(0), True), 33, "33 codes of 4 bits are no whole bytes"),
        (("int3", PerChannel(0), True), 384, "2 or 4 bits, not 3"),
        (("int8", PerChannel(0), True), 384, "2 or 4 bits, not 8"),
        (("int4", PerChannel(1), True), 384, "not per_channel"),
        (("int4", PerTensor(), True), 384, "not per_tensor"),
        (("int4", PerGroup(1, 48), True), 384, "power of two from 16, not per_group(48)"),
        (("int4", PerGroup(1, 8), True), 384, "not per_group(8)"),
        (("int4", PerGroup(0, 16), True), 384, "not per_group(16)"),
        (("int2", PerChannel(0), False), 384, ""),
        (("uint4", PerChannel(0), False), 384, "even number of blocks a row, not 1"),
        (("uint4", PerGroup(1, 128), False), 384, "even number of blocks a row, not 3"),
        (("uint4", PerGroup(1, 64), False), 384, ""),
    ],
)
def test_what_stays_packed(spec, width, why) -> None:
    dtype, granularity, symmetric = spec
    reason = packing_obstacle(QuantSpec(QTYPES[dtype], granularity, symmetric), width)
    assert why in reason
    assert bool(reason) is bool(why)
