"""A recipe for OpenVINO, from checkpoint to verdict; and the file made for the CPU, which it cannot take whole."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.runtime.client import problem_of
from qonnx_pipe.runtime.providers import openvino
from tests.zoo.projects import make_project

pytestmark = pytest.mark.export
SETS = ("validate.providers=[openvino]", "validate.gates={agreement: 0.5}")


@pytest.fixture(autouse=True)
def _device() -> None:
    """Without OpenVINO's package, or without an Intel processor, there is nothing to run on."""
    if openvino.PROVIDER.version() is None:
        pytest.skip("OpenVINO's plugin is not installed")
    if problem := problem_of("openvino"):
        pytest.skip(problem)


@pytest.fixture
def ran(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict]]:
    """Exit code and verdict of a run on OpenVINO with some keys set."""
    made = make_project(tmp_path / "project", checkpoint("bert", "text-classification"), "text-classification")
    monkeypatch.setenv("QPIPE_CACHE", str(made.cache))

    def of(*changes: str) -> tuple[int, dict]:
        words = [word for change in (*SETS, *changes) for word in ("--set", change)]
        code = main(["run", str(made.recipe), "--out", str(made.out), *words])
        return code, json.loads((made.out / "verdict.json").read_bytes())

    return of


def test_what_is_made_for_it_runs_in_one_piece_in_integers(
    ran: Callable[..., tuple[int, dict]], tmp_path: Path
) -> None:
    rules = "quantize.rules=[{match: {role: ffn.activation}, activations: {lowering: expand, columns: 4}}]"
    code, verdict = ran("quantize.target=openvino", "validate.fallback=false", rules)
    assert code == 0
    model = onnx.load(tmp_path / "project" / "run" / "model.onnx")
    assert {entry.domain for entry in model.opset_import} == {""}, "standard ONNX"
    quantized = verdict["results"][1]
    assert quantized["kernels"]["matmul_int8"] == quantized["kernels"]["matmul_total"] >= 12
    assert {node["provider"] for node in quantized["kernels"]["matmul_nodes"]} == {openvino.EP}
    partition = quantized["partition"]
    assert (partition["assigned"], partition["subgraphs"]) == (partition["nodes"], 1)


def test_what_is_made_for_the_cpu_goes_back_and_forth(
    ran: Callable[..., tuple[int, dict]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, verdict = ran("quantize.target=cpu")
    assert code == 0
    partition = verdict["results"][1]["partition"]
    assert partition["fallbacks"] == [{"op_type": "Attention", "provider": "CPUExecutionProvider", "count": 2}]
    assert partition["subgraphs"] == 3
    assert "2 Attention fell back to CPUExecutionProvider" in capsys.readouterr().out
    code, verdict = ran("quantize.target=cpu", "validate.fallback=false")
    assert code == 4
    assert "fallback to CPU EP has been explicitly disabled" in verdict["results"][1]["error"]
    assert "error" not in verdict["results"][0], "the float model is judged all the same"
