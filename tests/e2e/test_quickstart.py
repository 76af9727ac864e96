"""The quickstart recipe on the real MiniLM and BBC News: everything in integers, small, and close to float."""

import json
from pathlib import Path

import pytest

from qonnx_pipe.cli import main

pytestmark = [pytest.mark.export, pytest.mark.real, pytest.mark.slow]


def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPIPE_CACHE", str(tmp_path / "cache"))
    changes = [
        "data.calibration.samples=64",
        "data.evaluation.samples=96",
        "validate.latency.shapes=[]",
        "validate.gates={int8_matmuls: 1.0, size_ratio: 3.7, sqnr_db: 22, agreement: 0.97}",
    ]
    sets = [word for change in changes for word in ("--set", change)]
    assert main(["run", "quickstart", "--out", str(tmp_path / "run"), *sets]) == 0
    verdict = json.loads((tmp_path / "run/verdict.json").read_bytes())
    assert verdict["passed"]
    assert verdict["skipped"] == []
    assert verdict["size"]["ratio"] >= 3.7
    float_model, quantized = verdict["results"]
    integer = quantized["kernels"]["matmul_int8"], quantized["kernels"]["matmul_total"]
    assert integer == (40, 40)  # 36 layers, and four for the columns that `expand` adds
    assert quantized["fidelity"]["sqnr_db"] >= 22
    assert quantized["fidelity"]["agreement"] >= 0.97
    assert abs(float_model["accuracy"]["value"] - quantized["accuracy"]["value"]) <= 0.02  # two of 96 texts
