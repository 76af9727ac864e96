from __future__ import annotations

from qonnx_pipe.core.verdict import Fidelity, Latency, Metric, Result, Size, SizeParts, Verdict
from qonnx_pipe.stages.report.pareto import pareto

SIZE = Size(400, 100, SizeParts(50, 30, 10, 10))


def _pair(provider: str, float_ms: float, quantized_ms: float) -> tuple[Result, Result]:
    seen = Metric("accuracy", 0.9, "fraction", 100, (0.8, 0.95))
    ratio = float_ms / quantized_ms
    return (
        Result(provider, "float", seen, latency=(Latency(1, 8, float_ms, float_ms, 9, 1.0, (1.0, 1.0), 1.0),)),
        Result(
            provider,
            "quantized",
            seen,
            None,
            Fidelity(20.0, 1.0),
            (Latency(1, 8, quantized_ms, quantized_ms, 9, ratio, (ratio, ratio), 1.0),),
        ),
    )


def _failed(provider: str) -> tuple[Result, Result]:
    return (
        Result(provider, "float", error="provider failed: not here"),
        Result(provider, "quantized", error="provider failed: not here"),
    )


def _verdict(*results: Result) -> Verdict:
    return Verdict((), SIZE, results, (), {})


def test_speeds_are_relative_to_the_first_provider() -> None:
    found = pareto([("run", _verdict(*_pair("cpu", 10.0, 5.0), *_pair("openvino", 8.0, 2.0)))])
    assert found is not None
    assert found.base == "cpu"
    assert [(e.candidate.provider, e.candidate.model, e.candidate.speed) for e in found.entries] == [
        ("cpu", "float", 1.0), ("cpu", "quantized", 2.0), ("openvino", "float", 1.25), ("openvino", "quantized", 5.0),
    ]  # fmt: skip


def test_a_first_provider_that_failed_leaves_the_drawing_to_the_next() -> None:
    found = pareto([("run", _verdict(*_failed("cuda"), *_pair("cpu", 10.0, 5.0)))])
    assert found is not None
    assert found.base == "cpu"
    assert [(e.candidate.model, e.candidate.speed) for e in found.entries] == [("float", 1.0), ("quantized", 2.0)]


def test_nothing_to_draw_where_every_provider_failed() -> None:
    assert pareto([("run", _verdict(*_failed("cuda")))]) is None
