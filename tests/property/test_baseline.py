"""A verdict against itself never regresses; against a worse one it never does; a figure that fell below fails."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qonnx_pipe.core.baseline import against, regressions
from qonnx_pipe.core.gates import measure
from qonnx_pipe.core.kernels import Kernel, Kernels
from qonnx_pipe.core.verdict import Fidelity, Latency, Metric, Result, Size, SizeParts, Verdict

SHARES = st.floats(0, 1)
FACTORS = st.floats(0.1, 50)


@st.composite
def metrics(draw, name: str, low: float = 0.0) -> Metric:
    ends = sorted(draw(st.lists(st.floats(low, 1), min_size=3, max_size=3)))
    return Metric(
        name, ends[1], "fraction", draw(st.integers(1, 5000)), draw(st.sampled_from([None, (ends[0], ends[2])]))
    )


@st.composite
def latencies(draw, shape: tuple[int, int]) -> Latency:
    low, middle, high = sorted(draw(st.lists(FACTORS, min_size=3, max_size=3)))
    known = draw(st.booleans())
    return Latency(*shape, 4.0, 5.0, 100, middle if known else None, (low, high) if known else None, 100.0)


@st.composite
def kernels(draw) -> Kernels:
    ran = draw(st.lists(st.booleans(), max_size=5))
    return Kernels(tuple(Kernel(f"n{i}", f"w{i}", "MatMul", "cpu", None, integer) for i, integer in enumerate(ran)))


@st.composite
def results(draw, provider: str) -> Result:
    shapes = draw(st.sets(st.sampled_from([(1, 32), (1, 128), (8, 128)])))
    return Result(
        provider,
        "quantized",
        draw(st.none() | metrics("accuracy")),
        draw(st.none() | metrics("accuracy_drop", -1.0)),
        draw(st.none() | st.builds(Fidelity, st.floats(-200, 200), SHARES)),
        tuple(draw(latencies(shape)) for shape in sorted(shapes)),
        draw(st.none() | kernels()),
        draw(st.sampled_from(["", "provider failed: gone"])),
    )


@st.composite
def verdicts(draw) -> Verdict:
    sizes = st.integers(1, 10**9)
    size = Size(draw(sizes), draw(sizes), SizeParts(0, 0, 0, 0))
    providers = draw(st.sets(st.sampled_from(["cpu", "openvino", "qnn"])))
    return Verdict((), size, tuple(draw(results(name)) for name in sorted(providers)))


@given(verdicts())
def test_a_verdict_against_itself_never_regresses(verdict):
    assert all(gate.passed for gate in regressions(verdict, verdict))
    assert against(verdict, verdict).passed == verdict.passed


@given(verdicts())
def test_every_gate_has_a_name_of_its_own(verdict):
    names = [gate.name for gate in regressions(verdict, verdict)]
    assert len(names) == len(set(names))


@given(verdicts())
def test_what_is_gone_fails(verdict):
    found = regressions(replace(verdict, results=()), verdict)
    assert all(gate.value is None and not gate.passed for gate in found if measure(gate.name) != "size_ratio")


@given(verdicts(), verdicts())
def test_sign_value_and_limit_agree(verdict, baseline):
    for gate in regressions(verdict, baseline):
        if gate.value is not None:
            less = measure(gate.name) == "accuracy_drop"
            assert gate.passed == (gate.value <= gate.limit if less else gate.value >= gate.limit)


@pytest.mark.parametrize("measure_", ["accuracy", "accuracy_drop", "sqnr_db", "int8_matmuls", "speedup", "size_ratio"])
@given(st.data())
def test_only_what_got_worse_beyond_noise_fails(measure_, data):
    """A full result; one figure is moved beyond its noise, by an oracle that knows only that figure."""
    before = _full(data.draw)
    (result,) = before.results
    worse = replace(before, results=(_worse(result, measure_),))
    if measure_ == "size_ratio":
        size = before.size
        worse = replace(before, size=replace(size, quantized_bytes=int(size.quantized_bytes * 1.05) + 1))
    failed = {measure(gate.name) for gate in regressions(worse, before) if not gate.passed}
    assert failed == {measure_}
    assert all(gate.passed for gate in regressions(before, worse)), "what got better passes"


def _full(draw) -> Verdict:
    middle = draw(st.floats(0.2, 0.9))
    accuracy = Metric("accuracy", middle, "fraction", 500, (middle - 0.05, middle + 0.05))
    drop = Metric("accuracy_drop", 0.01, "fraction", 500, (-0.01, 0.03))
    speed = draw(st.floats(1, 9))
    timed = Latency(1, 128, 4.0, 5.0, 100, speed, (speed * 0.9, speed * 1.1), 100.0)
    ran = Kernels(tuple(Kernel(f"n{i}", f"w{i}", "k", "cpu", None, i > 0) for i in range(4)))
    result = Result("cpu", "quantized", accuracy, drop, Fidelity(draw(st.floats(0, 60)), 0.99), (timed,), ran)
    return Verdict((), Size(4000, draw(st.integers(500, 4000)), SizeParts(0, 0, 0, 0)), (result,))


def _worse(result: Result, figure: str) -> Result:
    assert result.accuracy
    assert result.accuracy_drop
    assert result.fidelity
    assert result.kernels
    (timed,) = result.latency
    match figure:
        case "accuracy":
            value = result.accuracy.value - 0.06
            return replace(
                result, accuracy=replace(result.accuracy, value=value, interval=(value - 0.05, value + 0.05))
            )
        case "accuracy_drop":
            return replace(result, accuracy_drop=replace(result.accuracy_drop, value=0.04, interval=(0.02, 0.06)))
        case "sqnr_db":
            return replace(result, fidelity=replace(result.fidelity, sqnr_db=result.fidelity.sqnr_db - 0.6))
        case "int8_matmuls":
            nodes = tuple(replace(node, integer=False) for node in result.kernels.nodes)
            return replace(result, kernels=Kernels(nodes))
        case "speedup":
            assert timed.speedup is not None
            slow = timed.speedup * 0.5
            return replace(result, latency=(replace(timed, speedup=slow, speedup_interval=(slow * 0.9, slow * 1.1)),))
    return result
