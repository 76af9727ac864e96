"""`qpipe validate`, `bench`, `inspect`, `providers` on tiny models: output, JSON, exit codes."""

import json
import re
import sys

import numpy as np
import onnxruntime as ort
import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime import client, providers, race
from qonnx_pipe.runtime.needs import Needs
from qonnx_pipe.runtime.providers import openvino
from tests.unit.core.test_verdict import VERDICT
from tests.zoo import graphs

CLASSES = ("negative", "positive")


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch):
    monkeypatch.setattr(race, "ROUND_S", 0.01)


@pytest.fixture
def models(tmp_path):
    quantized = graphs.token_model(tmp_path / "q.onnx", quantized=True, classes=CLASSES)
    return str(quantized), str(graphs.token_model(tmp_path / "f.onnx", classes=CLASSES))


@pytest.fixture
def data(tmp_path):
    """Twenty ready examples, as many of each class."""
    ids = np.random.default_rng(1).integers(1, 64, (20, 6))
    labels = np.array([CLASSES[i % 2] for i in range(20)])
    np.savez(tmp_path / "data.npz", input_ids=ids, attention_mask=np.ones_like(ids), labels=labels)
    return str(tmp_path / "data.npz")


def validate(models, data, *more) -> int:
    shape = ["--shape", "1x4", "--rounds", "1", "--threads", "1"]
    words = ["validate", models[0], "--reference", models[1], "--task", "text-classification", "--data", data]
    return main([*words, *shape, *more])


def test_validate_prints_tables_and_passes(models, data, capsys):
    assert validate(models, data, "--gate", "int8_matmuls=0.5") == 0
    text = capsys.readouterr().out
    for word in ("accuracy", "agreement", "1×4 median", "1 of 2", "weight not quantized", "int8_matmuls", "passed"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_missed_gate_is_exit_code_1_and_the_verdict_is_written(models, data, tmp_path, capsys):
    out = tmp_path / "verdict.json"
    assert validate(models, data, "--gate", "sqnr_db=150", "--json", "--out", str(out)) == 1
    printed = capsys.readouterr()
    verdict = json.loads(printed.out)
    assert verdict == json.loads(out.read_text())
    assert verdict["passed"] is False
    assert "sqnr_db" in printed.err


def test_a_baseline_of_its_own_passes_and_a_better_one_fails(models, data, tmp_path, capsys):
    first, out = tmp_path / "first.json", tmp_path / "verdict.json"
    assert validate(models, data, "--out", str(first)) == 0
    before = json.loads(first.read_text())
    quantized = before["results"][1]
    for timed in quantized["latency"]:
        timed["speedup_interval"] = [1e-3, 1e3]  # what is timed here takes microseconds
    first.write_text(json.dumps(before))
    assert validate(models, data, "--baseline", str(first), "--out", str(out)) == 0
    assert {gate["name"] for gate in json.loads(out.read_text())["gates"]} == {
        "baseline.size_ratio",
        *(f"baseline.{name}[cpu]" for name in ("accuracy", "accuracy_drop", "sqnr_db", "int8_matmuls")),
        "baseline.speedup[cpu 1x4]",
    }
    quantized["fidelity"]["sqnr_db"] += 10
    quantized["kernels"]["matmul_nodes"] = quantized["kernels"]["matmul_nodes"][:0]
    first.write_text(json.dumps(before))
    capsys.readouterr()
    files = ("--junit", str(tmp_path / "v.xml"), "--markdown", str(tmp_path / "v.md"))
    assert validate(models, data, "--baseline", str(first), *files) == 1
    printed = capsys.readouterr()
    assert "gates not passed: baseline.sqnr_db[cpu]" in printed.err
    assert re.search(r"baseline.sqnr_db\[cpu\] +\d+\.\d\d +≥ \d+\.\d\d +failed", printed.out)
    assert '<testcase classname="qpipe.gates" name="baseline.sqnr_db[cpu]">' in (tmp_path / "v.xml").read_text()
    assert re.search(r"\| baseline.sqnr_db\[cpu\] \|.*\*\*failed\*\*", (tmp_path / "v.md").read_text())


@pytest.mark.parametrize(
    "expected",
    [
        (None, "there is no such verdict"),
        ({"version": 9}, "a verdict of version 9"),
        ({"results": []}, "the baseline judged nothing, this run judges cpu"),
        ({"gates": 1}, "damaged"),
    ],
)
def test_a_baseline_that_is_none_is_told(models, data, tmp_path, capsys, expected):
    change, message = expected
    path = tmp_path / "old.json"
    if change is not None:
        path.write_text(json.dumps(VERDICT.to_json() | change))
    assert validate(models, data, "--baseline", str(path)) == 3
    printed = capsys.readouterr()
    assert message in printed.err
    assert str(path) in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--provider", "tpu"], (4, "unknown execution provider")),
        (["--gate", "speedup"], (2, "is no limit")),
        (["--gate", "beauty=1"], (2, "unknown gate")),
        (["--shape", "8"], (2, "is no shape")),
        (["--python", "openvino"], (2, "write it as PROVIDER=PATH")),
        (["--python", "cpu=a", "--python", "cpu=b"], (2, "has two interpreters")),
        (["--python", "openvino=python"], (2, "not asked to run")),
        (["--python", "opnvino=python"], (4, "unknown execution provider")),
        (["--time-limit", "0"], (2, "Invalid value")),
    ],
)
def test_bad_options(models, data, capsys, more, expected):
    code, message = expected
    assert validate(models, data, *more) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_report_that_cannot_be_written_takes_nothing_along(models, data, tmp_path, capsys):
    out, nowhere = tmp_path / "verdict.json", tmp_path / "data.npz" / "verdict.xml"
    assert validate(models, data, "--out", str(out), "--junit", str(nowhere)) == 2
    printed = capsys.readouterr()
    assert "cannot be written" in printed.err
    assert "Traceback" not in printed.err
    assert "agreement" in printed.out
    assert json.loads(out.read_bytes())["results"]


def test_a_missing_model_is_exit_code_3(models, data, capsys):
    assert validate((f"{models[0]}.gone", models[1]), data) == 3
    assert "no such ONNX file" in capsys.readouterr().err


def test_bench_compares_with_the_first_model(models, capsys):
    words = ["bench", models[1], models[0], "--shape", "2x4", "--rounds", "2", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert (first["model"], first["provider"], first["speedup"]) == (models[1], "cpu", 1.0)
    assert (second["batch"], second["sequence"]) == (2, 4)
    assert second["speedup_interval"][0] <= second["speedup"] <= second["speedup_interval"][1]
    assert main(words) == 0
    assert "2×4" in capsys.readouterr().out


def test_inspect_tells_contents_and_kernels(models, capsys):
    assert main(["inspect", models[0], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"]["MatMul"] == 2
    assert found["bytes"] == sum(found["parts"].values())
    assert (found["kernels"]["matmul_int8"], found["kernels"]["matmul_total"]) == (1, 2)
    assert main(["inspect", models[0]]) == 0
    assert "ran in integers: 1 of 2" in capsys.readouterr().out
    assert main(["inspect", models[0], "--no-run"]) == 0
    assert "ran in integers" not in capsys.readouterr().out


def test_a_failed_provider_is_exit_code_4_before_1_and_everything_is_written(models, data, tmp_path, capsys):
    out, junit = tmp_path / "verdict.json", tmp_path / "verdict.xml"
    more = ["--provider", "cpu", "--provider", "xnnpack", "--gate", "sqnr_db=150", "--out", str(out)]
    assert validate(models, data, *more, "--junit", str(junit)) == 4
    printed = capsys.readouterr()
    assert "'xnnpack' is not available here" in printed.err
    assert "Traceback" not in printed.err
    assert "throughput" in printed.out
    assert "cold start" in printed.out
    results = json.loads(out.read_bytes())["results"]
    assert [one["provider"] for one in results] == ["cpu", "cpu", "xnnpack", "xnnpack"]
    assert results[1]["fidelity"]["sqnr_db"] > 20
    assert results[1]["latency"][0]["throughput"] > 0
    assert results[1]["latency"][0]["cold_start_s"] > 0
    assert results[2]["error"].startswith("provider failed: ")
    assert "xnnpack" in junit.read_text(encoding="utf-8")


def test_bench_under_another_interpreter(models, tmp_path, capsys):
    words = ["bench", models[0], "--shape", "1x4", "--rounds", "1", "--threads", "1", "--json"]
    assert main([*words, "--python", f"cpu={sys.executable}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["throughput"] > 0
    assert main([*words, "--python", f"cpu={tmp_path / 'none'}"]) == 4
    assert "cannot be started: No such file" in capsys.readouterr().err


def test_providers_lists_all_with_their_states(capsys):
    assert main(["providers", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["providers"]}
    assert tuple(rows) == providers.known()
    assert (rows["cpu"]["state"], rows["cpu"]["version"]) == ("available", ort.__version__)
    assert rows["cpu"]["device"]
    assert rows["cpu"]["problem"] is None
    assert rows["xnnpack"]["state"] == "impossible"
    assert rows["xnnpack"]["problem"] == "in no package: build onnxruntime with it"
    assert main(["providers"]) == 0
    assert "available" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "missing", "told"),
    [
        (None, "", ("installable", "pip install onnxruntime-ep-openvino")),
        (None, "needs Windows", ("impossible", "needs Windows")),
        ("9.9", "", ("impossible", "no device")),
    ],
)
def test_providers_says_what_to_do_or_why_not(monkeypatch, capsys, version, missing, told):
    """A package that is not there, a machine that it is not made for, and one where it finds no device."""
    monkeypatch.setattr(providers, "known", lambda: ("openvino",))
    monkeypatch.setattr(type(openvino.PROVIDER), "version", lambda _: version)
    monkeypatch.setattr(Needs, "missing", lambda _: missing)
    monkeypatch.setattr(client.Worker, "check", refuse)
    assert main(["providers"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("openvino"))
    assert all(word in line for word in told)


def refuse(worker):
    raise ProviderError("no device", where=worker.provider)
