"""Simplification of a whole file: the frame stays, the metadata are ours, what cannot be done is said."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from qonnx_pipe.errors import MissingDependency, ModelError, NumericsError, UsageError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.simplify import OPSETS, simplify

TEXT = (
    '<ir_version: 9, opset_import: ["" : 20], producer_name: "exporter", producer_version: "7",'
    ' metadata_props: ["theirs" : "kept"]> '
    "g (float[batch,sequence,4] x) => (float[batch,sequence,4] y) {"
    " t = Transpose <perm = [1, 0]> (w) m = MatMul(x, t) s = Add(m, bias)"
    " a = Div(s, root2) b = Erf(a) c = Add(b, one) d = Mul(s, c) g1 = Mul(d, half)"
    " h = MatMul(g1, w2) y = Add(h, bias2) }"
)
RANDOM = np.random.default_rng(11)
CONSTANTS = {
    "w": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "w2": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "bias": np.full(4, 0.25, np.float32),
    "bias2": np.full(4, 0.25, np.float32),
    "root2": np.float32(np.sqrt(2)),
    "one": np.float32(1),
    "half": np.float32(0.5),
}
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw.onnx", CONSTANTS)


def write(path: Path, constants: dict[str, np.ndarray]) -> Path:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    for node in model.graph.node:
        node.name = f"/layer/{node.output[0]}"
    onnx.save(model, path)
    return path


def run(path: Path) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.export
def test_the_graph_is_simplified_and_computes_the_same(raw: Path, tmp_path: Path) -> None:
    report = simplify(raw, tmp_path / "out" / "model.onnx", opset=21)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "Gelu", "MatMul", "Add"]
    np.testing.assert_allclose(run(tmp_path / "out" / "model.onnx"), run(raw), atol=1e-6)
    assert (report.nodes_before, report.nodes_after, report.opset) == (10, 5, 21)
    assert report.fused == {"Gelu": 1}
    assert report.deduplicated_bytes >= CONSTANTS["bias"].nbytes
    assert report.inputs == {"x": ("batch", "sequence", 4)}
    assert report.skipped == ()
    assert {"/layer/m", "/layer/h", "/layer/y"} <= {node.name for node in model.graph.node}


@pytest.mark.export
def test_metadata_and_producer(raw: Path, tmp_path: Path) -> None:
    simplify(raw, tmp_path / "model.onnx", opset=21, metadata={"task": "feature-extraction"})
    model = onnx.load(tmp_path / "model.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == {"theirs": "kept", "qonnx_pipe.task": "feature-extraction"}
    assert (model.producer_name, model.producer_version) == ("exporter", "7")
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.export
@pytest.mark.parametrize("opset", [20, 22, OPSETS.stop - 1])
def test_the_opset_is_raised_and_the_file_runs(raw: Path, tmp_path: Path, opset: int) -> None:
    assert simplify(raw, tmp_path / "model.onnx", opset=opset).opset == opset
    model = onnx.load(tmp_path / "model.onnx")
    assert model.opset_import[0].version == opset
    assert model.ir_version >= helper.find_min_ir_version_for(model.opset_import)
    np.testing.assert_allclose(run(tmp_path / "model.onnx"), run(raw), atol=1e-6)


@pytest.mark.export
def test_the_opset_is_never_lowered(raw: Path, tmp_path: Path) -> None:
    assert simplify(raw, tmp_path / "model.onnx", opset=18).opset == 20


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_an_opset_that_nobody_knows(raw: Path, tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match="opset"):
        simplify(raw, tmp_path / "model.onnx", opset=opset)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        simplify(tmp_path / "missing.onnx", tmp_path / "model.onnx", opset=21)


def test_nan_is_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw.onnx", {**CONSTANTS, "w2": np.full((4, 4), np.nan, np.float32)})
    with pytest.raises(NumericsError, match="w2"):
        simplify(raw, tmp_path / "model.onnx", opset=21)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.export
def test_a_model_that_protobuf_cannot_hold_goes_without_onnxsim(raw: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 100)
    report = simplify(raw, tmp_path / "model.onnx", opset=21)
    assert "onnxsim" in report.skipped[0]
    assert report.nodes_after == 5
    assert (tmp_path / "model.onnx.data").is_file()
    np.testing.assert_allclose(run(tmp_path / "model.onnx"), run(raw), atol=1e-6)


@pytest.mark.export
def test_what_onnxsim_cannot_do_is_said(raw: Path, tmp_path: Path, monkeypatch) -> None:
    import onnxsim

    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no luck\nmore words")

    monkeypatch.setattr(onnxsim, "simplify", fails)
    report = simplify(raw, tmp_path / "model.onnx", opset=21)
    assert report.skipped == ("onnxsim: no luck",)
    assert report.nodes_after == 5


def test_without_onnxsim(raw: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxsim", None)
    with pytest.raises(MissingDependency, match="onnxsim"):
        simplify(raw, tmp_path / "model.onnx", opset=21)
