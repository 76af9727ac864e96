"""Every tensor of the written graph is codes, with the scales that an NPU needs; the file still computes the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.numerics import fake_quantize, scale_and_zero_point, sqnr_db
from qonnx_pipe.core.numerics import quantize as codes_of
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.graph import io
from qonnx_pipe.graph.npu import Encode, Range, Seen, Written, quantize_for_npu
from qonnx_pipe.graph.npu.quantizers import Coded, encoding_of
from tests.unit.graph.npu import tiny

INT8 = QTYPES["int8"]
BY_CHANNEL = PerChannel(1)
SEEN = (
    "sum",
    "embedded",
    "pooled",
    "logits",
    *(
        f"l{layer}.{name}"
        for layer in range(2)
        for name in ("q", "k", "v", "s", "context", "out", "u", "x", "a", "h", "y", "z")
    ),
)
STREAM = ("embedded", "out", "u", "x", "h", "y", "z")


def weights(granularity: PerTensor | PerChannel) -> Encode:
    def of(_: str, matrix: np.ndarray, __: object) -> Coded:
        axis = 0 if isinstance(granularity, PerChannel) else None
        ends = scale_and_zero_point(matrix.min(axis), matrix.max(axis), INT8, symmetric=True)
        encoding = Encoding(INT8, granularity, *ends)
        return encoding, codes_of(matrix, encoding), None

    return of


@dataclass
class Made:
    """The float file, the quantized one, and what was written."""

    source: Path
    path: Path
    written: Written

    def __post_init__(self) -> None:
        self.model = onnx.load(self.path)
        self.constants = {entry.name: numpy_helper.to_array(entry) for entry in self.model.graph.initializer}
        self.makers = {name: node for node in self.model.graph.node for name in node.output}
        self.kinds = {
            port.name: port.type.tensor_type.elem_type
            for port in (*onnx.shape_inference.infer_shapes(self.model).graph.value_info, *self.model.graph.output)
        }

    def encoding(self, name: str) -> tuple[str, float, int]:
        """Type, scale and zero point of the codes behind a dequantized tensor."""
        node = self.makers[name]
        assert node.op_type == "DequantizeLinear", name
        scale, zero = (self.constants[operand] for operand in node.input[1:])
        return str(zero.dtype), scale.tolist(), zero.tolist()

    def types_behind(self, name: str) -> list[str]:
        """Types of codes back from a tensor to the operator that computes it, each once."""
        found = []
        while (maker := self.makers[name]).op_type in ("DequantizeLinear", "QuantizeLinear", "Reshape"):
            if maker.op_type == "DequantizeLinear":
                found.append(self.encoding(name)[0])
            name = maker.input[0]
        return list(dict.fromkeys(found))

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == op_type]


def made(
    folder: Path,
    bits: Mapping[str, int] | int = 8,
    granularity: PerTensor | PerChannel = BY_CHANNEL,
    groups: tuple[int, ...] | None = None,
    **options: object,
) -> Made:
    """The encoder quantized with the ranges of a run; `bits` of tensors by their names, 8 of the others."""
    source = tiny.Encoder(**{"layers": 2, **options}).save(folder / "float.onnx")
    ran = tiny.run(source, tiny.inputs(), *SEEN)
    seen = {}
    for name in SEEN:
        rows = tiny.kept(ran[name], tiny.inputs()["attention_mask"]) if ran[name].ndim == 3 else ran[name]
        many = bits if isinstance(bits, int) else bits.get(name, 8)
        limits = Range(float(rows.min()), float(rows.max()), many)
        wanted = groups if name.rpartition(".")[2] in STREAM else None
        seen[name] = Seen(limits, rows.min(0), rows.max(0), wanted)
    model = io.load(source)
    least = bits if isinstance(bits, int) else 8
    written = quantize_for_npu(model, tiny.SHAPE, seen, weights(granularity), bits=least)
    io.save(model, folder / "quantized.onnx")
    onnx.checker.check_model(folder / "quantized.onnx", full_check=True)
    return Made(source, folder / "quantized.onnx", written)


MIXED = {name: 16 for name in SEEN if name.rpartition(".")[2] in STREAM}
FORMS = [
    {},
    {"bits": 16},
    {"bits": MIXED},
    {"granularity": PerTensor()},
    {"groups": tuple(range(tiny.D))},
    {"groups": (0, 1, 1, 0, 2, 2, 3, 3)},
    {"norm_bias": False, "groups": tuple(range(tiny.D))},
    {"bias": False},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_everything_reads_dequantized_codes_and_gives_what_is_quantized(tmp_path: Path, form: dict) -> None:
    got = made(tmp_path, **form)
    for node in got.model.graph.node:
        if node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear"):
            continue
        for name in node.input:
            if name in got.constants:
                assert got.constants[name].dtype != np.float32, f"{node.name} reads the float constant {name}"
            elif name in got.makers and got.kinds[name] == onnx.TensorProto.FLOAT:
                assert got.makers[name].op_type == "DequantizeLinear", f"{node.name} reads {name}"
        for name in node.output:
            readers = [other for other in got.model.graph.node if name in other.input]
            if got.kinds[name] == onnx.TensorProto.FLOAT:
                assert [reader.op_type for reader in readers] == ["QuantizeLinear"], name
    for port in got.model.graph.output:
        assert got.makers[port.name].op_type == "DequantizeLinear"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_file_computes_the_model(tmp_path: Path, form: dict) -> None:
    """Signal to noise of kept tokens; 8 bits of a tensor are at most 50 dB, less 20 for a dozen of them in turn."""
    got, feeds = made(tmp_path, **form), tiny.inputs()
    before, after = tiny.run(got.source, feeds), tiny.run(got.path, feeds)
    assert [port.name for port in got.model.graph.output] == list(before)
    for name, values in before.items():
        pair = (tiny.kept(found, feeds["attention_mask"]) for found in (values, after[name]))
        assert sqnr_db(*pair) > (35 if form.get("bits") == 16 else 22), name


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1)])
def test_a_bias_has_the_scale_of_its_product(tmp_path: Path, granularity: PerTensor | PerChannel) -> None:
    got = made(tmp_path, granularity=granularity)
    gemms = got.nodes("Gemm")
    assert len(gemms) == 14
    for gemm in gemms:
        (_, source, _), (kind, weight, zero), (bias_kind, bias, bias_zero) = map(got.encoding, gemm.input)
        assert (kind, bias_kind) == ("int8", "int32")
        assert not np.any(zero)
        assert not np.any(bias_zero)
        np.testing.assert_allclose(bias, np.multiply(source, weight), rtol=1e-6)
        columns = [a.i for a in got.makers[gemm.input[1]].attribute if a.name == "axis"]
        assert columns == ([1] if isinstance(granularity, PerChannel) else [])


def test_a_norm_has_8_bit_gains_and_a_bias_of_its_product(tmp_path: Path) -> None:
    got = made(tmp_path, MIXED)
    for norm in got.nodes("LayerNormalization"):
        (kind, source, _), (gain_kind, gain, _), (bias_kind, bias, _) = map(got.encoding, norm.input)
        assert (kind, gain_kind, bias_kind) == ("uint16", "uint8", "int32")
        assert bias == pytest.approx(source * gain, rel=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_looked_up_and_its_table_have_one_encoding(tmp_path: Path, bits: int) -> None:
    got = made(tmp_path, bits)
    gathers = got.nodes("Gather")
    assert [node.name for node in gathers] == ["word", "first_token"], "positions of a static shape are a constant"
    table = got.encoding(gathers[0].input[0])
    (quantizer,) = (node for node in got.nodes("QuantizeLinear") if node.input[0] == gathers[0].output[0])
    assert table[0] == f"uint{bits}"
    assert table[1:] == tuple(got.constants[name].tolist() for name in quantizer.input[1:])


def test_where_bits_meet_a_pair_converts(tmp_path: Path) -> None:
    """16 bits in the stream: Gemms read 8 of them, and what a Gemm computes in 8 bits is widened for a sum of 16."""
    got = made(tmp_path, MIXED | {"l0.h": 8})
    (up,) = (node for node in got.nodes("Gemm") if node.name == "l0.up.mm")
    assert got.encoding(up.input[0])[0] == "uint8"
    (total,) = (node for node in got.nodes("Add") if node.name == "l0.y")
    assert [got.encoding(name)[0] for name in total.input] == ["uint16", "uint16"]
    assert ["uint16", "uint8"] in [got.types_behind(name) for name in total.input]


def test_encodings_are_those_of_the_names_that_were_asked_for(tmp_path: Path) -> None:
    got = made(tmp_path)
    assert set(got.written.encodings) == {*SEEN, "words"}, "and of the table"
    assert {name.partition(".")[2] for name in got.written.folds} <= {"q", "k"}, "1/√d went into the layers"
    ran = tiny.run(got.source, tiny.inputs(), "l0.x", "l0.q")
    for name, factor in (("l0.x", 1.0), ("l0.q", 0.5)):
        values = tiny.kept(ran[name], tiny.inputs()["attention_mask"]) * factor
        if factor != 1:
            np.testing.assert_allclose(got.written.folds[name](values / factor), values, rtol=1e-6)
        found = got.written.encodings[name]
        assert found.scale == pytest.approx(np.ptp(values) / 255, rel=1e-4)
        assert np.abs(fake_quantize(values, found) - values).max() <= found.scale * 0.51, "within half a step"


def test_groups_fill_one_range_behind_their_folds(tmp_path: Path) -> None:
    got = made(tmp_path, groups=tuple(range(tiny.D)))
    assert {name for name in got.written.folds if name.startswith("l0")} - {"l0.q", "l0.k"} == {
        f"l0.{part}" for part in ("out", "u", "x", "h", "y", "z")
    }
    ran = tiny.run(got.source, tiny.inputs(), "l0.y")
    values = got.written.folds["l0.y"](tiny.kept(ran["l0.y"], tiny.inputs()["attention_mask"]))
    widths = np.ptp(values, axis=0)
    np.testing.assert_allclose(widths, widths[0], rtol=1e-3)
    np.testing.assert_allclose(values.max(axis=0), -values.min(axis=0), rtol=1e-3, atol=1e-3)
    assert got.written.encodings["l0.y"].scale == pytest.approx(widths[0] / 255, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (-2.0, -1.0), (0.0, 0.0), (-3e4, 1e-3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_range_holds_0_exactly(low: float, high: float, bits: int) -> None:
    found = encoding_of(Range(low, high, bits))
    assert found.dtype.qmin <= found.zero_point <= found.dtype.qmax
    assert fake_quantize(np.zeros(1, np.float32), found) == 0


def test_codes_are_those_of_the_reference_arithmetic(tmp_path: Path) -> None:
    """The first tensor behind the table, where no rounding came before."""
    got = made(tmp_path)
    feeds = tiny.inputs()
    (quantizer,) = (node for node in got.nodes("QuantizeLinear") if node.input[0] == "word")
    table = got.constants[got.makers[got.nodes("Gather")[0].input[0]].input[0]]
    np.testing.assert_array_equal(
        tiny.run(got.path, feeds, quantizer.output[0])[quantizer.output[0]], table[feeds["input_ids"]]
    )
    words = numpy_helper.to_array(next(e for e in onnx.load(got.source).graph.initializer if e.name == "words"))
    np.testing.assert_array_equal(table, codes_of(words, encoding_of(Range(float(words.min()), float(words.max()), 8))))
