"""Timing on planted measurements: which file and which MatMul a time belongs to, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Self, cast

import numpy as np
import pytest

from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.core.kernels import Event, Kernel, Kernels, executed
from qonnx_pipe.core.plan import Lowering
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.times import FLOAT
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.runtime.census import profile
from qonnx_pipe.runtime.race import Timing
from qonnx_pipe.stages import timing
from qonnx_pipe.stages.timing import Timed, duration, timing_stage
from tests.unit.graph.lowerings.tiny import Layers, per_group, quantized
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


@pytest.mark.parametrize(("form", "kernels"), [("nbits", 1), ("blocked", 1), ("split", 2)])
def test_the_kernels_of_every_form_are_found(tmp_path: Path, form: str, kernels: int) -> None:
    """The layer is the file's only one: all that multiplies in the profile is its own."""
    layers = Layers("matmul_add")
    x = layers.x()
    if form == "split":
        plan, coded = layers.plan(lowering="integer"), {"x": per_group(x, (16, 16))}
    else:
        spec = QuantSpec(QTYPES["int4"], PerGroup(0, 16), True, accuracy_level=4)
        plan, coded = layers.plan(None, spec, cast(Lowering, form)), {}
    path = quantized(layers.save(tmp_path / "m.onnx"), plan, coded)
    seen = profile(path, {"x": x}, tmp_path, runs=3)
    assert seen.optimized is not None
    took = [event.mean_us for event in seen.events if "MatMul" in event.op_type]
    assert len(took) == kernels
    found = executed(linears(path), linears(seen.optimized), seen.events)
    assert duration(found, plan.entries[1].site, "cpu") == pytest.approx(sum(took) / 1e3)


Profile = dict[str, tuple[str, float]]
"""Node → kernel and µs."""


class Pretended:
    """A worker whose profiles are planted, by file and round."""

    def __init__(self, profiles: dict[str, list[Profile]], path: Path) -> None:
        self._left = list(profiles[path.name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def census(self, _inputs: object) -> SimpleNamespace:
        events = tuple(Event(node, op, "cpu", us, integer=True) for node, (op, us) in self._left.pop(0).items())
        return SimpleNamespace(optimized=None, events=events)


Plant = Callable[[dict[str, list[float]], dict[str, list[Profile]]], None]
WIDTH = graphs.WIDTH
SITES = [Site(f"layer.{i}/weight[ffn.output]", Role.WEIGHT, i, f"w{i}", WIDTH, (f"m{i}",)) for i in range(2)]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """`plant(seconds, profiles)`: of whole files and of their nodes, by file and round."""

    def planted(seconds: dict[str, list[float]], profiles: dict[str, list[Profile]]) -> None:
        def race(
            racers: list[timing.Racer], _inputs: object, *, rounds: int, progress: Callable[[int], None], **_: object
        ) -> tuple[Timing, ...]:
            progress(rounds)
            return tuple(Timing(tuple((one,) * 3 for one in seconds[racer.model.name]), 1, 0.1) for racer in racers)

        monkeypatch.setattr(timing, "race", race)
        monkeypatch.setattr(timing.Racer, "worker", lambda self, **_: Pretended(profiles, self.model))

    return planted


def two_layers(path: Path) -> Path:
    weights = {f"w{i}": np.ones((WIDTH, WIDTH), np.float32) for i in range(2)}
    nodes = [
        graphs.helper.make_node("MatMul", ["x", "w0"], ["h"], "m0"),
        graphs.helper.make_node("MatMul", ["h", "w1"], ["y"], "m1"),
    ]
    ports = [[graphs.tensor(name, ["batch", WIDTH])] for name in ("x", "y")]
    return graphs.save(path, nodes, *ports, weights)


def in_blocks(path: Path, *sizes: int) -> Path:
    """Two layers as MatMulNBits of 4 bits, each with its own number of inputs to a scale."""
    nodes, constants = [], {}
    for i, size in enumerate(sizes):
        operands = [f"{'xh'[i]}", f"w{i}", f"s{i}"]
        options = {"K": WIDTH, "N": WIDTH, "bits": 4, "block_size": size}
        nodes.append(
            graphs.helper.make_node("MatMulNBits", operands, ["hy"[i]], f"m{i}", domain="com.microsoft", **options)
        )
        constants[f"w{i}"] = np.zeros((WIDTH, WIDTH // size, size // 2), np.uint8)
        constants[f"s{i}"] = np.ones((WIDTH, WIDTH // size), np.float32)
    ports = [[graphs.tensor(name, ["batch", WIDTH])] for name in ("x", "y")]
    return graphs.save(path, nodes, *ports, constants)


def test_whole_files_and_kernels_become_times(tmp_path: Path, plant: Plant) -> None:
    """Two layers of one shape share the median over both and all rounds; 8 and 4 bits share a file."""
    model, floats, codes = (two_layers(tmp_path / f"{name}.onnx") for name in ("model", "f", "c"))
    pairs = [(1000.0, 2000.0), (2000.0, 9000.0), (1000.0, 2000.0)]
    plant(
        {"model.onnx": [0.020] * 3, "f.onnx": [0.010, 0.008, 0.0125], "c.onnx": [0.008] * 3},
        {
            "f.onnx": [{"m0": ("MatMul", first), "m1": ("MatMul", second)} for first, second in pairs],
            "c.onnx": [{"m0": ("MatMul", 500.0), "m1": ("MatMul", 500.0)}] * 3,
        },
    )
    wish, heard = Timed({}, (1, 16), "cpu", 3), list[int]()
    found = timing_stage(model, {FLOAT: floats, 8: codes, 4: codes}, SITES, wish, heard.append)
    assert sum(heard) == wish.steps == 6
    assert (found.float_ms, found.rest_ms) == (pytest.approx(20.0), pytest.approx(6.0))  # 10 ms less two medians of 2
    assert found.noise == pytest.approx((2.5 - 1.6) / 2.05)
    for site in SITES:
        assert found.matrices[site.id] == pytest.approx({FLOAT: 2.0, 8: 1.0, 4: 1.0})  # half of 8 ms less 6


@pytest.mark.parametrize("kernels", [("MatMulNBits", "MatMulIntegerToFloat"), ("MatMulNBits", "MatMulNBits")])
def test_layers_of_one_shape_with_other_kernels_are_told_apart(
    tmp_path: Path, plant: Plant, kernels: tuple[str, str]
) -> None:
    """Another operator, or the same one on blocks of another size; in float they are alike."""
    model, floats = (two_layers(tmp_path / f"{name}.onnx") for name in ("model", "f"))
    sizes = (16, 32) if kernels[0] == kernels[1] else (16, 16)
    codes = in_blocks(tmp_path / "c.onnx", *sizes)
    plant(
        {"model.onnx": [0.010] * 3, "f.onnx": [0.010] * 3, "c.onnx": [0.008] * 3},
        {
            "f.onnx": [{"m0": ("MatMul", 1000.0), "m1": ("MatMul", 3000.0)}] * 3,
            "c.onnx": [{"m0": (kernels[0], 1500.0), "m1": (kernels[1], 500.0)}] * 3,
        },
    )
    found = timing_stage(model, {FLOAT: floats, 8: codes}, SITES, Timed({}, (1, 16), "cpu", 3))
    assert [found.matrices[site.id][FLOAT] for site in SITES] == pytest.approx([2.0, 2.0])
    assert [found.matrices[site.id][8] for site in SITES] == pytest.approx([1.5, 0.5])  # 8 ms less 6 are 2
