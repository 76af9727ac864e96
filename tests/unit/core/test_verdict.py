"""The verdict's JSON, and when it passed."""

import json
from dataclasses import replace

import pytest

from qonnx_pipe.core.gates import judge
from qonnx_pipe.core.kernels import Kernel, Kernels
from qonnx_pipe.core.partition import Fallback, Partition
from qonnx_pipe.core.site import Skipped
from qonnx_pipe.core.verdict import ClassDrop, Fidelity, Gate, Latency, Metric, Result, Size, SizeParts, Verdict
from qonnx_pipe.errors import UsageError

KERNELS = Kernels(
    (
        Kernel("m0", "w0", "MatMulIntegerToFloat", "CPUExecutionProvider", 10.0, True),
        Kernel("m1", "w1", "MatMul", "CPUExecutionProvider", None, False, "activation not quantized"),
    )
)
FLOAT = Result("cpu", "float", accuracy=Metric("accuracy", 0.95, "fraction", 700, (0.93, 0.96), {"tech": 0.9}))
QUANTIZED = Result(
    "cpu",
    "quantized",
    accuracy=Metric("accuracy", 0.94, "fraction", 700, (0.92, 0.955)),
    accuracy_drop=Metric("accuracy_drop", 0.01, "fraction", 700, (0.0, 0.02)),
    fidelity=Fidelity(31.2, 0.997),
    latency=(
        Latency(1, 128, 4.1, 4.6, 200, 2.7, (2.6, 2.8), 310.0, throughput=241.0, cold_start_s=0.8),
        Latency(8, 128, 30.0, 33.0, 90, 2.4, (2.3, 2.5), 400.0),
    ),
    kernels=KERNELS,
    partition=Partition(20, 2, (Fallback("Attention", "CPUExecutionProvider", 6),)),
    class_drops=(ClassDrop("tech", 0.02, (0.01, 0.03), 90), ClassDrop("sport", 0.0, (-0.01, 0.01), 80)),
)
SIZE = Size(400, 100, SizeParts(60, 20, 5, 15), 70, 64)
VERDICT = Verdict((Gate("speedup", 2.0, 2.4, True),), SIZE, (FLOAT, QUANTIZED), (Skipped("site", "why"),), {"cores": 2})


def test_json_has_the_shape_that_interface_md_promises():
    data = VERDICT.to_json()
    assert (data["version"], data["passed"]) == (1, True)
    assert data["gates"] == [{"name": "speedup", "limit": 2.0, "value": 2.4, "passed": True}]
    assert data["size"] == {
        "float_bytes": 400,
        "quantized_bytes": 100,
        "ratio": 4.0,
        "parts": {"weights": 60, "embeddings": 20, "scales": 5, "other": 15},
        "low_bit_bytes": 70,
        "nominal_bytes": 64,
    }
    quantized = data["results"][1]
    assert {"metric", "value", "n", "interval", "per_class"} <= quantized["accuracy"].keys()
    assert {"nodes", "assigned", "subgraphs", "fallbacks"} == quantized["partition"].keys()
    assert quantized["fidelity"] == {"sqnr_db": 31.2, "agreement": 0.997}
    trained = replace(QUANTIZED, fidelity=Fidelity(31.2, 0.997, 43.5))
    assert trained.to_json()["fidelity"] == {"sqnr_db": 31.2, "agreement": 0.997, "trained_sqnr_db": 43.5}
    assert quantized["latency"][0].keys() == {
        *("batch", "sequence", "p50_ms", "p95_ms", "n", "speedup", "speedup_interval", "peak_rss_mb"),
        *("throughput", "cold_start_s"),
    }
    assert quantized["kernels"]["matmul_total"] == 2
    assert quantized["kernels"]["matmul_int8"] == 1
    assert quantized["kernels"]["float"] == [{"node": "m1", "reason": "activation not quantized"}]
    assert data["skipped"] == [{"site": "site", "reason": "why"}]
    assert quantized["class_drops"][0] == {"name": "tech", "drop": 0.02, "interval": (0.01, 0.03), "n": 90}
    assert "also" not in quantized["accuracy"]
    assert Metric("spearman", 0.8, "correlation", 9, also={"pearson": 0.7}).to_json()["also"] == {"pearson": 0.7}


def test_a_verdict_survives_the_file():
    text = json.dumps(VERDICT.to_json(), allow_nan=False)
    assert Verdict.from_json(json.loads(text)) == VERDICT
    failed = replace(VERDICT, results=(FLOAT, Result("cpu", "quantized", error="provider failed: killed")))
    assert Verdict.from_json(json.loads(json.dumps(failed.to_json()))) == failed


def test_a_verdict_of_an_older_version_is_read():
    data = json.loads(json.dumps(VERDICT.to_json()))
    for key in ("throughput", "cold_start_s"):
        del data["results"][1]["latency"][0][key]
    del data["results"][1]["class_drops"]
    assert Verdict.from_json(data).results[1].class_drops == ()
    latency = Verdict.from_json(data).results[1].latency[0]
    assert (latency.throughput, latency.cold_start_s, latency.p50_ms) == (None, None, 4.1)


def test_an_error_fails_the_verdict_whatever_the_gates_say():
    broken = replace(VERDICT, results=(FLOAT, replace(QUANTIZED, error="the outputs of 3 of 9 examples hold NaN")))
    assert VERDICT.passed
    assert not broken.passed
    assert broken.provider_failures == ()
    crashed = replace(VERDICT, results=(replace(QUANTIZED, error="provider failed: killed by signal 9"),))
    assert crashed.provider_failures == crashed.results


@pytest.mark.parametrize(
    ("name", "value", "better", "worse"),
    [
        ("accuracy_drop", 0.01, 0.02, 0.005),
        ("speedup", 2.4, 2.4, 2.5),  # the worst shape decides
        ("int8_matmuls", 0.5, 0.5, 0.9),
        ("size_ratio", 4.0, 3.7, 4.1),
        ("sqnr_db", 31.2, 22.0, 32.0),
        ("agreement", 0.997, 0.99, 1.0),
    ],
)
def test_gates(name, value, better, worse):
    assert judge({name: better}, SIZE, (FLOAT, QUANTIZED)) == (Gate(name, better, value, True),)
    assert judge({name: worse}, SIZE, (FLOAT, QUANTIZED)) == (Gate(name, worse, value, False),)


@pytest.mark.parametrize("name", ["accuracy_drop", "speedup", "int8_matmuls", "sqnr_db"])
def test_what_one_provider_could_not_measure_fails(name):
    failed = Result("npu", "quantized", error="provider failed: gone")
    assert judge({name: 0.01}, SIZE, (QUANTIZED, failed)) == (Gate(name, 0.01, None, False),)


def test_an_unknown_gate_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown gate 'speed'"):
        judge({"speed": 2.0}, SIZE, ())
