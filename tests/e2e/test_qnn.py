"""A recipe for Qualcomm's NPU on its simulator: in one piece, in integers; a compiled file; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.runtime import client
from qonnx_pipe.runtime.client import Worker, problem_of
from qonnx_pipe.runtime.plugin import Plugin
from qonnx_pipe.runtime.providers import qnn
from qonnx_pipe.runtime.session import evaluate
from tests.zoo.projects import Project, make_project

pytestmark = pytest.mark.export
SHAPE = (3, 24)
SETS = ("quantize.target=qnn", "quantize.shape=[3, 24]", "quantize.rules=[]", "validate.providers=[qnn]")
STREAM = "embedding.norm, attention.output, attention.sum, ffn.input, ffn.output, residual.sum, layer.output"
GROUPS = "quantize.rules=[{match: {role: [" + STREAM + "]}, activations: {granularity: %s}}]"
SAME_DB = 20.0
"""Between the simulator and the CPU's run of the same file: the NPU's integer arithmetic rounds many a tensor to the
code beside, and each code of 8 bits is about 40 dB below its range."""

WITHOUT_PACKAGE = f"""
from importlib import metadata
known = metadata.version
def version(name):
    if name == {qnn.PROVIDER.package!r}:
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.version = version
"""


@pytest.fixture
def device() -> None:
    """Without Qualcomm's package there is nothing to run on."""
    if qnn.PROVIDER.version() is None:
        pytest.skip("QNN's plugin is not installed")
    if problem := problem_of("qnn"):
        pytest.skip(problem)


@pytest.fixture
def made(checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """A project of a family and task."""

    def of(family: str = "bert", task: str = "text-classification") -> Project:
        project = make_project(tmp_path / "project", checkpoint(family, task), task)
        monkeypatch.setenv("QPIPE_CACHE", str(project.cache))
        return project

    return of


def run(project: Project, *changes: str) -> int:
    words = [word for change in (*SETS, *changes) for word in ("--set", change)]
    return main(["run", str(project.recipe), "--out", str(project.out), *words])


def verdict_of(project: Project) -> dict:
    return json.loads((project.out / "verdict.json").read_bytes())


def feeds(model: Path) -> dict[str, np.ndarray]:
    """Ids for every input of the file, the last row half padding."""
    rng = np.random.default_rng(0)
    names = [port.name for port in onnx.load(model).graph.input]
    mask = np.ones(SHAPE, np.int64)
    mask[-1, SHAPE[1] // 2 :] = 0
    made_up = {"input_ids": rng.integers(5, 60, SHAPE) * mask, "attention_mask": mask}
    return {name: made_up.get(name, np.zeros(SHAPE, np.int64)) for name in names}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("family", "task", "change", "limit"),
    [
        ("bert", "text-classification", "quantize.activations={dtype: uint8}", 20),
        ("bert", "text-classification", "quantize.activations={dtype: uint16}", 40),
        ("bert", "feature-extraction", GROUPS % "per_embedding", 13),
        ("bert", "feature-extraction", GROUPS % "{per_embedding_group: 4}, permute: range", 13),
        ("bert", "feature-extraction", "quantize.activations={dtype: uint16}", 14),
        ("distilbert", "text-classification", "quantize.activations={dtype: uint8}", 20),
        ("roberta", "feature-extraction", "quantize.activations={dtype: uint8}", 14),
        ("mpnet", "feature-extraction", "quantize.activations={dtype: uint16}", 30),
    ],
)
def test_it_runs_in_one_piece_in_integers(
    made: Callable[..., Project], family: str, task: str, change: str, limit: float
) -> None:
    """The limits in dB are about 5 below what was measured: tiny networks of random weights forgive little."""
    project = made(family, task)
    gates = f"validate.gates={{int8_matmuls: 1.0, sqnr_db: {limit}}}"
    assert run(project, change, "validate.fallback=false", gates) == 0
    (quantized,) = verdict_of(project)["results"]
    assert quantized["latency"] == [], "a simulator's time means nothing"
    kernels, partition = quantized["kernels"], quantized["partition"]
    assert kernels["matmul_int8"] == kernels["matmul_total"] >= 12
    assert {(node["provider"], node["kernel"]) for node in kernels["matmul_nodes"]} == {(qnn.EP, "HTP")}
    assert (partition["subgraphs"], partition["assigned"], partition["fallbacks"]) == (1, partition["nodes"], [])
    model = project.out / "model.onnx"
    with Worker(model, "qnn", threads=1) as worker:
        (found,) = worker.predict([feeds(model)])
    for name, values in evaluate(model, feeds(model)).items():
        for row in range(SHAPE[0]):
            assert sqnr_db(values[row], found[name][row]) > SAME_DB, (name, row)


@pytest.mark.usefixtures("device")
def test_a_compiled_model_computes_the_same(
    made: Callable[..., Project], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = made()
    assert run(project, "validate.gates={}") == 0
    model, target = project.out / "model.onnx", tmp_path / "out" / "compiled.onnx"
    capsys.readouterr()
    assert main(["compile", str(model), "--provider", "qnn", "--out", str(target), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file["path"]) for file in files] == sorted(target.parent.iterdir())
    assert all(file["bytes"] == Path(file["path"]).stat().st_size for file in files)
    compiled = onnx.load(target, load_external_data=False).graph.node
    assert [node.op_type for node in compiled] == ["EPContext", "DequantizeLinear"], "all, and what gives floats back"
    outputs = []
    for path in (model, target):
        with Worker(path, "qnn", threads=1) as worker:
            outputs += worker.predict([feeds(model)])
    for name, values in outputs[0].items():
        np.testing.assert_array_equal(outputs[1][name], values)


@pytest.mark.usefixtures("device")
def test_what_it_cannot_have_is_told(made: Callable[..., Project]) -> None:
    project = made()
    rules = "quantize.rules=[{match: {role: attention.context}, activations: {granularity: {per_embedding_group: 4}}}, "
    assert run(project, rules + "{match: {role: pooler}, float: true}]", "validate.gates={int8_matmuls: 1.0}") == 0
    reasons = {skip["site"]: skip["reason"] for skip in verdict_of(project)["skipped"]}
    assert reasons["layer.0/attention.context"] == "one scale: groups can be had in the residual stream alone"
    assert reasons["pooler"] == "a float tensor would leave the NPU: 16 bits"


def test_texts_longer_than_the_shape_are_bad_data(
    made: Callable[..., Project], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made(), "quantize.shape=[1, 8]", "validate.providers=[cpu]") == 3
    said = capsys.readouterr().err
    assert "the model takes [1, 8] tokens, input 'input_ids' has" in said
    assert "max_length: 8" in said


def test_a_shape_without_positions_is_a_bad_model(
    made: Callable[..., Project], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made(), "quantize.shape=[1, 400]") == 3
    assert "give a sequence that the model has positions for" in capsys.readouterr().err


def test_texts_shorter_than_the_shape_are_padded_and_timed_at_it(made: Callable[..., Project]) -> None:
    project = made()
    shapes = "validate.latency={shapes: [[1, 16]], rounds: 3}"
    changes = ("quantize.shape=[3, 40]", "validate.providers=[cpu]", "validate.gates={sqnr_db: 20}", shapes)
    assert run(project, *changes) == 0
    for result in verdict_of(project)["results"]:
        assert [(one["batch"], one["sequence"]) for one in result["latency"]] == [(3, 40)]


def test_without_the_package_it_is_a_result(made: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    project = made()
    monkeypatch.setattr(Plugin, "version", lambda _: None)
    monkeypatch.setattr(client, "START", WITHOUT_PACKAGE + client.START)
    assert run(project, "validate.providers=[cpu, qnn]", "validate.gates={sqnr_db: 20}") == 4
    results = {result["provider"]: result for result in verdict_of(project)["results"][1:]}
    assert "not available here" in results["qnn"]["error"]
    assert results["cpu"]["fidelity"]["sqnr_db"] > 20, "the others are judged all the same"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("quantize.equalise=true", "target qnn has no equalise yet"),
        ("quantize.target=cpu", "target cpu needs no static shape"),
        ("quantize.shape=[0, 8]", "quantize.shape"),
        ("quantize.shape=[8]", "quantize.shape"),
    ],
)
def test_recipes_that_cannot_be(
    made: Callable[..., Project], change: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made(), change) == 2
    assert says in capsys.readouterr().err
