"""Open forms are settled by injected times and sampled tokens; expansions say what they gain, or are given up."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.statistics import CalibrationTable, MinMax, Provenance, SiteStatistics
from qonnx_pipe.errors import DataError
from qonnx_pipe.recipe import load
from qonnx_pipe.stages.lowering import settle_forms
from qonnx_pipe.stages.plan import plan_stage
from qonnx_pipe.stages.plan.entries import LATER
from qonnx_pipe.stages.quantize import quantize_stage
from tests.unit.recipe.texts import PLAIN, written

pytestmark = pytest.mark.export
PROVENANCE = Provenance("0" * 64, "1" * 64, 8, 2, 60, 4, 16)
GROUPS = "activations: {range: minmax, granularity: {per_embedding_group: 4}, permute: range}"
EXPAND = "activations: {range: minmax, lowering: expand, columns: 4}"


@pytest.fixture
def planned(tmp_path: Path, exported: Callable[..., Path]) -> Callable[..., tuple[Path, QuantPlan]]:
    def of(match: str, change: str, before: str = "") -> tuple[Path, QuantPlan]:
        rules = f"quantize:\n{before}  rules:\n    - match: {match}\n      {change}\n"
        model = exported("bert")
        return model, plan_stage(load(written(tmp_path, PLAIN + rules)), model)

    return of


def table(plan: QuantPlan, *, outlier: float = 30.0, sampled: bool = True) -> CalibrationTable:
    """Normal tokens with one dimension `outlier` times as wide as the others, everywhere."""
    sites = {}
    for site in plan.sites.activations:
        width = 1 if site.pairwise else max(1, site.width)
        tokens = np.random.default_rng(len(site.id)).normal(0, 1, (64, width)).astype(np.float32)
        tokens[:, width // 2] *= outlier
        sites[site.id] = SiteStatistics(
            MinMax(tokens.min(axis=0), tokens.max(axis=0)), samples=tokens if sampled else None
        )
    return CalibrationTable(sites, PROVENANCE)


def entry(plan: QuantPlan, site: str) -> PlanEntry:
    return next(found for found in plan.entries if found.site.id == site)


def times(**by_form: float) -> Callable[..., dict[str, float]]:
    def measure(models, inputs):
        assert next(iter(models)) == "plain"
        assert all(isinstance(data, bytes) for data in models.values())
        return {name: by_form.get(name, 1.0) for name in models}

    return measure


def test_a_plan_without_open_forms_is_left_alone(planned) -> None:
    model, plan = planned("{role: ffn.input}", "activations: {smooth: 0.5}")
    assert settle_forms(model, plan, table(plan), measure=times()) is plan


def test_auto_waits_for_calibration(planned) -> None:
    _, plan = planned("{role: ffn.input}", GROUPS)
    found = entry(plan, "layer.0/ffn.input")
    assert found.lowering == "auto"
    assert found.reason.startswith(LATER)
    assert QuantPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"lowering": "magic"},
        {"spec": {"dtype": "int5", "granularity": "per_tensor"}},
        {"spec": {"dtype": "int4", "granularity": {"per_group": 16}}},
    ],
)
def test_a_plan_with_an_unknown_form_or_type_is_refused(planned, change) -> None:
    _, plan = planned("{role: ffn.input}", GROUPS)
    written = plan.to_json()
    written["entries"][0] |= change
    with pytest.raises((ValueError, KeyError)):
        QuantPlan.from_json(written)


@pytest.mark.parametrize("form", ["split", "fold", "expand", "float"])
def test_the_form_that_costs_least_among_good_ones_is_taken(planned, tmp_path: Path, form: str) -> None:
    model, plan = planned("{role: ffn.input}", GROUPS)
    slow = dict.fromkeys(("split", "fold", "expand", "float"), 20.0) | {form: 1.0}
    statistics = table(plan)
    settled = settle_forms(model, plan, statistics, measure=times(**slow))
    found = entry(settled, "layer.0/ffn.input")
    assert found.lowering == form
    assert found.reason.startswith(f"auto: {form} ")
    for other in {"split", "fold", "expand", "float"} - {form}:
        assert f"{other} " in found.reason
    assert "at 20.00×" in found.reason
    assert (found.spec is None) == (form == "float")
    encodings = quantize_stage(model, settled, statistics, tmp_path / "q.onnx")
    assert ("layer.0/ffn.input" in encodings.activations) == (form != "float")
    assert ("layer.0/ffn.input" in encodings.folds) == (form == "fold")


def test_a_fold_is_not_offered_where_nothing_can_take_it(planned) -> None:
    model, plan = planned("{role: ffn.activation}", GROUPS)
    settled = settle_forms(model, plan, table(plan), measure=times(fold=0.1))
    reason = entry(settled, "layer.0/ffn.activation").reason
    assert "fold" not in reason
    assert "expand" in reason


def test_like_sites_are_timed_once(planned) -> None:
    calls = []
    model, plan = planned("{role: ffn.input}", GROUPS)

    def measure(models, inputs):
        calls.append(inputs["x"].shape)
        return dict.fromkeys(models, 1.0)

    settle_forms(model, plan, table(plan), measure=measure)
    assert calls == [(8, 128, 32)]


def test_full_placement_splits(planned) -> None:
    _, plan = planned("{role: ffn.input}", GROUPS, before="  placement: full\n")
    assert entry(plan, "layer.0/ffn.input").lowering == "split"


def test_a_choice_needs_tokens(planned) -> None:
    model, plan = planned("{role: ffn.input}", GROUPS)
    with pytest.raises(DataError, match="kept no tokens") as caught:
        settle_forms(model, plan, table(plan, sampled=False), measure=times())
    assert caught.value.where == "layer.0/ffn.input"


def test_an_expansion_says_what_it_gains(planned, tmp_path: Path) -> None:
    model, plan = planned("{role: ffn.input}", EXPAND)
    found = entry(plan, "layer.0/ffn.input")
    assert (found.lowering, found.spec.granularity) == ("expand", PerTensor())
    settled = settle_forms(model, plan, table(plan), measure=times())
    reason = entry(settled, "layer.0/ffn.input").reason
    assert reason.startswith("expand: 4 columns for 1 outlier dimensions make the step")
    encodings = quantize_stage(model, settled, table(plan), tmp_path / "q.onnx")
    assert encodings.activations["layer.0/ffn.input"].granularity.dimensions == (16,) * 4


def test_an_expansion_that_gains_nothing_is_given_up_and_told(planned) -> None:
    model, plan = planned("{role: ffn.input}", EXPAND)
    settled = settle_forms(model, plan, table(plan, outlier=1.0), measure=times())
    found = entry(settled, "layer.0/ffn.input")
    assert (found.lowering, found.spec.form) == ("qdq", "auto")
    told = {skip.site: skip.reason for skip in settled.skipped}
    assert told["layer.0/ffn.input"].startswith("not expanded: 4 columns shrink the step by")


@pytest.mark.parametrize(
    ("match", "change", "site", "told"),
    [
        ("{role: ffn.input}", "activations: {lowering: expand, columns: 16}", "layer.0/ffn.input", "4 at most"),
        ("{role: ffn.input}", "activations: {lowering: expand, dtype: uint16}", "layer.0/ffn.input", "uint16"),
        ("{role: residual.sum}", "activations: {lowering: expand}", "layer.0/residual.sum", "no weight MatMul"),
    ],
)
def test_what_an_expansion_cannot_have_is_told(planned, match: str, change: str, site: str, told: str) -> None:
    _, plan = planned(match, change, before="  placement: full\n")
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    assert told in reasons[site]


def test_form_float_is_a_choice_not_a_skip(planned) -> None:
    _, plan = planned("{role: ffn.input}", "activations: {lowering: float}")
    found = entry(plan, "layer.0/ffn.input")
    assert (found.spec, found.lowering, found.reason) == (None, "float", "lowering: float: no quantizer")
    assert plan.skipped == ()


def test_16_bits_that_run_in_float_are_told(planned) -> None:
    _, plan = planned("{role: ffn.input}", "activations: {dtype: uint16}")
    assert "the CPU provider runs the MatMuls that read this in float" in entry(plan, "layer.0/ffn.input").reason
