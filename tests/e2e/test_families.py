"""`qpipe run` from a checkpoint of texts or of images to a verdict and a report."""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.pipeline import STAGES
from tests.conftest import USUAL_TASKS
from tests.zoo.projects import Project, make_project

pytestmark = pytest.mark.export
FILES = {
    "manifest.json",
    "model.onnx",
    "float/model.onnx",
    "float/export.json",
    "float/config.json",
    "calibration.npz",
    "encodings.json",
    "plan.json",
    "verdict.json",
    "layers.json",
    "report.html",
}


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", ["distilbert", "vit"])
def test_from_a_checkpoint_to_a_report(
    family: str,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = USUAL_TASKS.get(family, "text-classification")
    made = make_project(tmp_path / "project", checkpoint(family, task), task)
    monkeypatch.setenv("QPIPE_CACHE", str(made.cache))
    assert main(["run", str(made.recipe), "--out", str(made.out)]) == 0
    said = capsys.readouterr()
    assert "passed" in said.out
    assert f"model    {made.out / 'model.onnx'}" in said.out
    assert f"report   {made.out / 'report.html'}" in said.out
    assert [line.split()[0] for line in said.err.splitlines()] == [
        stage for stage in STAGES if stage not in ("sensitivity", "timing", "tune", "qat", "round")
    ]
    names = set(content(made.out))
    assert names >= FILES
    assert ("float/tokenizer.json" in names) == (family != "vit")
    assert not any(".writing-" in name for name in names), "no scratch is left"
    verdict = json.loads((made.out / "verdict.json").read_bytes())
    kernels = verdict["results"][1]["kernels"]
    assert verdict["passed"]
    assert kernels["matmul_int8"] >= 12, "six linear layers in each of two"
    session = ort.InferenceSession(made.out / "model.onnx", providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_outputs()] == ["logits"]


def test_until_shows_only_what_was_reached(
    project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = project().copy_of_the_run(tmp_path)
    monkeypatch.setenv("QPIPE_CACHE", str(finished.cache))
    assert main(["run", str(finished.recipe), "--out", str(finished.out), "--until", "plan"]) == 0
    assert capsys.readouterr().out == f"float    {finished.out / 'float/model.onnx'}\n"
