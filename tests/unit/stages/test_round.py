"""Rounding is learned layer by layer, beats nearest rounding where it is measured, resumes, is checked when read."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import qonnx_pipe.stages.round as round_module
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.rounding import Learned
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.spec import Rounding
from qonnx_pipe.core.statistics import CalibrationTable, Provenance
from qonnx_pipe.errors import DataError, NumericsError, RecipeError
from qonnx_pipe.observers import gptq
from qonnx_pipe.recipe import load
from qonnx_pipe.source import adaround
from qonnx_pipe.stages.plan import plan_stage
from qonnx_pipe.stages.quantize import quantize_stage
from qonnx_pipe.stages.round import (
    UNSAMPLED,
    Rounder,
    learned_sites,
    read_rounding,
    round_stage,
    told_in,
    write_rounding,
)
from tests.unit.recipe.texts import PLAIN, written

pytestmark = pytest.mark.export

ROUNDERS: dict[Rounding, Rounder] = {
    "adaround": partial(adaround.learn_rounding, settings=adaround.Settings(iterations=200)),
    "gptq": partial(gptq.gptq, settings=gptq.Settings()),
}
WEIGHT_ONLY = "  activations: {dtype: float}\n  weights: {dtype: int4, rounding: adaround}\n"
NOTHING = CalibrationTable({}, Provenance("model", "data", 1, 1, 1, 1, 1))


@pytest.fixture
def planned(tmp_path: Path, exported: Callable[..., Path]) -> Callable[..., tuple[Path, QuantPlan]]:
    def of(quantize: str = WEIGHT_ONLY, family: str = "bert") -> tuple[Path, QuantPlan]:
        recipe = load(written(tmp_path, PLAIN + f"quantize:\n{quantize}"))
        return exported(family), plan_stage(recipe, exported(family))

    return of


def batches(seed: int, count: int = 6, size: int = 8) -> list[Batch]:
    """Random tokens, padded on the right."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        lengths = rng.integers(6, 17, size)
        mask = (np.arange(16) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, 30, (size, 16)) * mask
        made.append(Batch({"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}, (None,) * size))
    return made


def learn(model: Path, plan: QuantPlan, folder: Path, **changes: object) -> dict[str, Learned]:
    folder.mkdir(exist_ok=True)
    options = {"tokens": 400, "rounders": ROUNDERS, "workdir": folder} | changes
    return round_stage(model, plan, batches(0), **options)


def outputs(model: Path, over: list[Batch]) -> np.ndarray:
    """The hidden state of every token that is no padding."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = {port.name for port in session.get_inputs()}
    runs = [session.run(None, {name: batch.inputs[name] for name in names})[0] for batch in over]
    masks = [batch.inputs["attention_mask"].astype(bool) for batch in over]
    return np.concatenate([run[mask] for run, mask in zip(runs, masks, strict=True)])


@pytest.mark.parametrize("how", ["adaround", "gptq", "gptq, granularity: {per_group: 8}"])
def test_the_model_comes_closer_to_the_float_one(planned, tmp_path: Path, how: str) -> None:
    """At 6 bits: at 4 the tiny model is far from its float self whatever one does."""
    model, plan = planned(WEIGHT_ONLY.replace("int4", "int6").replace("adaround", how))
    heard: list[str] = []
    learned = learn(model, plan, tmp_path / "work", progress=heard.append)
    assert heard == [site.id for site in learned_sites(plan)]
    assert set(learned) == set(heard) == {entry.site.id for entry in plan.quantized if entry.site.role is Role.WEIGHT}
    assert all(found.error <= found.nearest_error for found in learned.values())
    quantize_stage(model, plan, NOTHING, tmp_path / "learned.onnx", rounded={s: f.codes for s, f in learned.items()})
    quantize_stage(model, plan, NOTHING, tmp_path / "nearest.onnx", rounded={})
    exact, by_learned, by_nearest = (
        outputs(path, batches(1)) for path in (model, tmp_path / "learned.onnx", tmp_path / "nearest.onnx")
    )
    assert np.square(by_learned - exact).sum() < 0.7 * np.square(by_nearest - exact).sum()


def test_layers_come_in_the_order_of_the_data(planned) -> None:
    _, plan = planned()
    owners = [(site.layer, site.owner) for site in learned_sites(plan) if site.layer is not None]
    one = [Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE]
    one += [Role.ATTENTION_OUTPUT, Role.FFN_ACTIVATION, Role.FFN_OUTPUT]
    assert owners[:12] == [(0, owner) for owner in one] + [(1, owner) for owner in one]


@pytest.mark.parametrize("how", ["adaround", "gptq"])
def test_an_interrupted_call_goes_on_where_it_was(planned, tmp_path: Path, how: str) -> None:
    model, plan = planned(WEIGHT_ONLY.replace("adaround", how))
    whole = learn(model, plan, tmp_path / "whole")

    def stop(site: str) -> None:
        if site == "layer.1/weight[ffn.activation]":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(model, plan, tmp_path / "work", progress=stop)
    heard: list[str] = []
    resumed = learn(model, plan, tmp_path / "work", progress=heard.append)
    assert heard[0] == "layer.1/weight[ffn.activation]"
    for site, found in whole.items():
        np.testing.assert_array_equal(resumed[site].codes, found.codes)


def test_each_weight_is_rounded_in_its_own_way(planned, tmp_path: Path) -> None:
    rules = "  rules:\n    - match: {role: ffn.output}\n      weights: {rounding: gptq}\n"
    model, plan = planned(WEIGHT_ONLY + rules)
    asked: list[tuple[str, np.ndarray]] = []

    def watched(name: Rounding, *args: np.ndarray) -> Learned:
        asked.append((name, args[0]))
        return ROUNDERS[name](*args)

    found = learn(model, plan, tmp_path / "work", rounders={name: partial(watched, name) for name in ROUNDERS})
    assert len(found) == len(asked)
    assert [name for name, weight in asked if len(weight) == 64] == ["gptq", "gptq"], "inputs of the second layers"
    assert sum(name == "gptq" for name, _ in asked) == 2


def test_inputs_that_are_not_finite_are_told(planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = planned()
    real = round_module.observe

    def broken(*args: object):
        for row in real(*args):
            yield {name: 0 * values + np.nan if values.ndim == 2 else values for name, values in row.items()}

    monkeypatch.setattr(round_module, "observe", broken)
    with pytest.raises(NumericsError, match="NaN or infinity") as caught:
        learn(model, plan, tmp_path / "work")
    assert caught.value.where == "layer.0/weight[attention.query]"


def test_what_was_amiss_is_told(planned, tmp_path: Path) -> None:
    _, plan = planned()
    first, second, third, *rest = (site.id for site in learned_sites(plan))
    codes = Learned(np.zeros((2, 2), np.int8), 0.0, 0.0, 0.0, 0.0)
    learned = dict.fromkeys([first, *rest], codes) | {second: replace(codes, note="3 inputs are always 0")}
    told = told_in(plan, learned).skipped[len(plan.skipped) :]
    assert [(skip.site, skip.reason) for skip in told] == [(second, "3 inputs are always 0"), (third, UNSAMPLED)]


def test_only_what_the_recipe_asks_for_is_learned(planned, tmp_path: Path) -> None:
    rules = "  rules:\n    - match: {role: ffn.output, layer: 1}\n      weights: {rounding: adaround}\n"
    model, plan = planned(rules)
    assert set(learn(model, plan, tmp_path / "work")) == {"layer.1/weight[ffn.output]"}


def test_a_weight_that_all_layers_share_is_learned_once(planned, tmp_path: Path) -> None:
    model, plan = planned(family="albert")
    learned = learn(model, plan, tmp_path / "work")
    shared = [entry.site for entry in plan.quantized if entry.site.role is Role.WEIGHT and len(entry.site.feeds) > 1]
    assert shared
    assert all(site.id in learned for site in shared)


@pytest.mark.parametrize("rounding", ["adaround", "gptq"])
def test_tables_have_nothing_to_learn(planned, rounding: str) -> None:
    with pytest.raises(RecipeError, match="nothing to learn from"):
        planned(f"  embeddings: {{rounding: {rounding}}}\n")


def test_codes_survive_their_file(tmp_path: Path) -> None:
    codes = np.arange(-8, 4, dtype=np.int8).reshape(3, 4)
    write_rounding(tmp_path / "rounding.npz", {"layer.0/weight[head]": Learned(codes, 0.25, 0.0, 0.5, 0.125, "a note")})
    (found,) = read_rounding(tmp_path / "rounding.npz").values()
    np.testing.assert_array_equal(found.codes, codes)
    assert found.note == "a note"
    assert (found.changed, found.undecided, found.nearest_error, found.error) == (0.25, 0.0, 0.5, 0.125)


@pytest.mark.parametrize("content", [None, b"", b"no zip", "cut"])
def test_a_missing_or_damaged_file_is_told(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "rounding.npz"
    if content == "cut":
        write_rounding(path, {"a": Learned(np.zeros((9, 9), np.int8), 0.0, 0.0, 0.0, 0.0)})
        path.write_bytes(path.read_bytes()[:200])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match="learned codes") as caught:
        read_rounding(path)
    assert "--from round" in caught.value.fix


def test_codes_of_another_weight_are_refused(planned, tmp_path: Path) -> None:
    model, plan = planned()
    learned = {site: found.codes for site, found in learn(model, plan, tmp_path / "work").items()}
    site = "layer.0/weight[attention.query]"
    wrong = learned | {site: learned["layer.1/weight[attention.query]"]}
    with pytest.raises(DataError, match="of another weight") as caught:
        quantize_stage(model, plan, NOTHING, tmp_path / "q.onnx", rounded=wrong)
    assert caught.value.where == site
    assert not (tmp_path / "q.onnx").exists()


def test_without_learned_codes_it_says_where_they_come_from(planned, tmp_path: Path) -> None:
    model, plan = planned()
    with pytest.raises(DataError, match="no learned codes") as caught:
        quantize_stage(model, plan, NOTHING, tmp_path / "q.onnx")
    assert "qpipe run" in caught.value.fix


def test_without_batches_there_is_nothing_to_learn_on(planned, tmp_path: Path) -> None:
    model, plan = planned()
    with pytest.raises(DataError, match="no samples"):
        round_stage(model, plan, [], tokens=9, rounders=ROUNDERS, workdir=tmp_path)
