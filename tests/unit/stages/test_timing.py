"""Timing on planted measurements: which file and which MatMul a time belongs to, and what cannot be told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Self

import numpy as np
import pytest

from qonnx_pipe.core.kernels import Event, Kernel, Kernels
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.times import FLOAT
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime.race import Timing
from qonnx_pipe.stages import timing
from qonnx_pipe.stages.timing import Timed, duration, timing_stage
from tests.zoo import graphs


def kernel(node: str, us: float | None) -> Kernel:
    return Kernel(node, "w", "MatMul", "cpu", us, integer=True)


SITE = Site("layer.0/weight[ffn.output]", Role.WEIGHT, 0, "w", 8, ("mm",))


def test_a_layer_in_groups_is_the_sum_of_its_matmuls() -> None:
    found = Kernels((kernel("mm_group0", 100.0), kernel("mm_group1", 50.0), kernel("mm2", 7.0)))
    assert duration(found, SITE, "cpu") == pytest.approx(0.15)


@pytest.mark.parametrize("nodes", [(), (kernel("mm", None),), (kernel("mm_group0", 1.0), kernel("mm_group1", None))])
def test_a_matmul_that_was_not_timed(nodes: tuple[Kernel, ...]) -> None:
    with pytest.raises(ProviderError, match="does not tell how long") as failure:
        duration(Kernels(nodes), SITE, "openvino")
    assert failure.value.where == SITE.id


class Pretended:
    """A worker whose profiles are planted, by file and round."""

    def __init__(self, us: dict[str, list[dict[str, float]]], path: Path) -> None:
        self._left = list(us[path.name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def census(self, _inputs: object) -> SimpleNamespace:
        events = tuple(Event(node, "MatMul", "cpu", us, integer=True) for node, us in self._left.pop(0).items())
        return SimpleNamespace(optimized=None, events=events)


def test_whole_files_and_kernels_become_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of one shape share the median over both and all rounds; 8 and 4 bits share a file."""
    width = graphs.WIDTH
    weights = {f"w{i}": np.ones((width, width), np.float32) for i in range(2)}
    nodes = [
        graphs.helper.make_node("MatMul", ["x", "w0"], ["h"], "m0"),
        graphs.helper.make_node("MatMul", ["h", "w1"], ["y"], "m1"),
    ]
    ports = [[graphs.tensor(name, ["batch", width])] for name in ("x", "y")]
    model, floats, codes = (graphs.save(tmp_path / f"{n}.onnx", nodes, *ports, weights) for n in ("model", "f", "c"))
    sites = [Site(f"layer.{i}/weight[ffn.output]", Role.WEIGHT, i, f"w{i}", width, (f"m{i}",)) for i in range(2)]
    profiles = {
        "f.onnx": [{"m0": 1000.0, "m1": 2000.0}, {"m0": 2000.0, "m1": 9000.0}, {"m0": 1000.0, "m1": 2000.0}],
        "c.onnx": [{"m0": 500.0, "m1": 500.0}] * 3,
    }
    seconds = {"model.onnx": [0.020] * 3, "f.onnx": [0.010, 0.008, 0.0125], "c.onnx": [0.008] * 3}

    def race(racers: list[timing.Racer], _inputs: object, **_: object) -> tuple[Timing, ...]:
        return tuple(Timing(tuple((one,) * 3 for one in seconds[racer.model.name]), 1, 0.1) for racer in racers)

    monkeypatch.setattr(timing, "race", race)
    monkeypatch.setattr(timing.Racer, "worker", lambda self, **_: Pretended(profiles, self.model))
    wish = Timed({}, (1, 16), "cpu", 3)
    found = timing_stage(model, {FLOAT: floats, 8: codes, 4: codes}, sites, wish)
    assert (found.float_ms, found.rest_ms) == (pytest.approx(20.0), pytest.approx(6.0))  # 10 ms less two medians of 2
    assert found.noise == pytest.approx((2.5 - 1.6) / 2.05)
    for site in sites:
        assert found.matrices[site.id] == pytest.approx({FLOAT: 2.0, 8: 1.0, 4: 1.0})  # half of 8 ms less 6
