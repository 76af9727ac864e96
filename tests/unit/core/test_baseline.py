"""A baseline as people and files give it: names of its gates, what does not compare, what cannot be read."""

import json
from dataclasses import replace

import pytest

from qonnx_pipe.core.baseline import against, check_comparable, regressions
from qonnx_pipe.core.verdict import PROVIDER_FAILED, Result
from qonnx_pipe.core.verdict_file import read_verdict
from qonnx_pipe.errors import DataError
from tests.unit.core.test_verdict import QUANTIZED, VERDICT


def test_the_gates_of_a_baseline():
    names = {gate.name: (gate.limit, gate.value) for gate in regressions(VERDICT, VERDICT)}
    assert names == {
        "baseline.size_ratio": (pytest.approx(3.96), 4.0),
        "baseline.accuracy[cpu]": (0.92, 0.94),
        "baseline.accuracy_drop[cpu]": (0.02, 0.01),
        "baseline.sqnr_db[cpu]": (pytest.approx(30.7), 31.2),
        "baseline.int8_matmuls[cpu]": (0.5, 0.5),
        "baseline.speedup[cpu 1x128]": (pytest.approx(2.5), 2.7),  # less the 0.1 from 2.7 to 2.8
        "baseline.speedup[cpu 8x128]": (pytest.approx(2.2), 2.4),
    }


def test_a_regression_fails_the_verdict_and_its_own_gates_stay():
    slower = replace(QUANTIZED.latency[1], speedup=2.1, speedup_interval=(2.0, 2.2))
    now = replace(VERDICT, results=(replace(QUANTIZED, latency=(QUANTIZED.latency[0], slower)),))
    judged = against(now, VERDICT)
    assert judged.gates[0] == VERDICT.gates[0]
    assert [gate.name for gate in judged.gates if not gate.passed] == ["baseline.speedup[cpu 8x128]"]
    assert not judged.passed


def test_a_shape_that_is_no_longer_timed_fails_as_not_measured():
    now = replace(VERDICT, results=(replace(QUANTIZED, latency=QUANTIZED.latency[:1]),))
    (missed,) = [gate for gate in regressions(now, VERDICT) if not gate.passed]
    assert (missed.name, missed.value) == ("baseline.speedup[cpu 8x128]", None)


def test_what_a_baseline_cannot_be_compared_with():
    check_comparable(VERDICT, ["cpu"], "accuracy", where="old.json")
    with pytest.raises(DataError, match="judged cpu, this run judges cpu, openvino") as caught:
        check_comparable(VERDICT, ["cpu", "openvino"], "accuracy", where="old.json")
    assert caught.value.where == "old.json"
    with pytest.raises(DataError, match="of another task: it measured accuracy, this run measures F1"):
        check_comparable(VERDICT, ["cpu"], "F1", where="old.json")


def test_a_float_reference_that_failed_on_the_cpu_is_no_provider_that_was_judged():
    broken = Result("cpu", "float", error=f"{PROVIDER_FAILED}: cpu: out of memory")
    before = replace(VERDICT, results=(broken, replace(QUANTIZED, provider="openvino")))
    check_comparable(before, ["openvino"], "accuracy", where="old.json")


def test_a_provider_that_failed_fails_its_gates_and_stays_the_providers_failure():
    now = replace(VERDICT, results=(Result("cpu", "quantized", error=f"{PROVIDER_FAILED}: cpu: not available here"),))
    judged = against(now, VERDICT)
    assert {gate.value for gate in judged.gates if gate.name.endswith("]")} == {None}
    assert judged.provider_failures == now.results
    assert not [gate for gate in regressions(VERDICT, now) if gate.name.endswith("]")]  # nothing to fall below


def test_a_verdict_is_read_back(tmp_path):
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(VERDICT.to_json()))
    assert read_verdict(path) == VERDICT


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no such verdict"),
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"version": 1, "gates": 3}', "damaged"),
        (b'{"version": 2}', "a verdict of version 2"),
        (b'{"version": "1"}', "a verdict of version '1'"),
    ],
)
def test_what_is_no_verdict_is_an_error_that_names_it(tmp_path, content, what):
    path = tmp_path / "verdict.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read_verdict(path)
    assert caught.value.where == str(path)
    assert caught.value.fix
