"""`qpipe quantize --tune` writes what was kept and tells what was tried; the measurements are simulated."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.core.tuning import Tuning
from qonnx_pipe.stages.tune import Measured
from tests.zoo.projects import Project

pytestmark = pytest.mark.export


@pytest.mark.parametrize("as_json", [True, False])
def test_tuning(
    project: Callable[..., Project],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    """Standard operators are twice as fast here, and nothing costs accuracy."""

    def operators(file: Path) -> set[str]:
        return {node.op_type for node in onnx.load(file).graph.node}

    def compare(_self: Measured, before: Path, after: Path) -> tuple[float, tuple[float, float]]:
        gain = 2.0 ** (("MatMulIntegerToFloat" in operators(before)) - ("MatMulIntegerToFloat" in operators(after)))
        return gain, (gain - 0.1, gain + 0.1)

    monkeypatch.setattr(Measured, "fidelity", lambda *_: 30.0)
    monkeypatch.setattr(Measured, "compare", compare)
    made, out = project(), tmp_path / "q.onnx"
    words = ["--recipe", str(made.recipe), "--calibration", str(made.out / "calibration.npz"), "--out", str(out)]
    assert main(["quantize", str(made.out / "float/model.onnx"), *words, "--tune", *["--json"] * as_json]) == 0
    assert "MatMulIntegerToFloat" not in operators(out)
    tuning = Tuning.from_json(json.loads((tmp_path / "q.tuning.json").read_bytes()))
    assert [trial.name for trial in tuning.kept] == ["matmul_inputs, qdq"]
    printed = capsys.readouterr().out
    if as_json:
        assert Tuning.from_json(json.loads(printed)["tuning"]) == tuning
    else:
        assert "kept matmul_inputs, qdq: faster" in printed
        assert "tried full, qdq: as fast, within noise" in printed
