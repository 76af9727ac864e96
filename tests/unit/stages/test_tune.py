"""A search keeps what is faster beyond noise and accurate enough, and says of all else why not; times are simulated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.core.tuning import Trial, Tuning
from qonnx_pipe.errors import ModelError
from qonnx_pipe.recipe.quantize import Quantize, Tune
from qonnx_pipe.stages.tune import changes, tune_stage

SITES = tuple(
    Site(f"layer.{layer}/{role}", role, layer, f"t{layer}{role}", 8, (f"m{layer}{role}",))
    for layer in (0, 1)
    for role in (Role.FFN_INPUT, Role.FFN_ACTIVATION)
)
NOISE = 0.02
"""Half the width of every simulated interval."""


def plan_of(settings: Quantize) -> QuantPlan:
    """Inputs of the FFN folded and its activations expanded, unless a rule says otherwise."""
    plain = {name for rule in settings.rules for name in (*rule.match.role, *rule.match.node)}
    entries = []
    for site in SITES:
        form = {Role.FFN_INPUT: "fold", Role.FFN_ACTIVATION: "expand"}[site.role]
        lowering = "qdq" if {site.role, site.id} & plain else form
        entries.append(PlanEntry(site, QuantSpec(QTYPES["uint8"], PerTensor(), False), lowering, "activations"))
    weight = Site("weight", Role.WEIGHT, 0, "w", 8, ("m0",))
    spec = QuantSpec(QTYPES["int8"], PerTensor(), False)
    entries.append(PlanEntry(weight, spec, settings.matmul_form, "weights"))
    return QuantPlan(settings.target, settings.chosen_placement, tuple(entries), attention=settings.attention_form)


def facts_of(plan: QuantPlan) -> set[str]:
    """What a simulated file is like: "full", "qdq", "attention plain", and "plain <site>"."""
    facts: set[str] = {plan.placement, plan.entries[-1].lowering}
    facts |= {"full and qdq"} if facts == {"full", "qdq"} else set()
    facts |= {f"attention {plan.attention}"} if "integer" in facts else set()
    return facts | {f"plain {entry.site.id}" for entry in plan.entries if entry.lowering == "qdq"}


@dataclass
class Simulated:
    """Files whose time is 1 and whose SQNR is 30 dB, but for what some of their facts add."""

    times: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    broken: str = ""
    raced: list[str] = field(default_factory=list)

    def make(self, settings: Quantize, target: Path) -> QuantPlan:
        plan = plan_of(settings)
        if self.broken in facts_of(plan):
            raise ModelError("no such kernel", where=str(target))
        target.write_text("\n".join(facts_of(plan)))
        return plan

    def time(self, file: Path) -> float:
        return 1.0 + sum(self.times.get(fact, 0.0) for fact in file.read_text().splitlines())

    def fidelity(self, file: Path) -> float:
        return 30.0 - sum(self.losses.get(fact, 0.0) for fact in file.read_text().splitlines())

    def compare(self, before: Path, after: Path) -> tuple[float, tuple[float, float]]:
        gain = self.time(before) / self.time(after)
        return gain, (gain - NOISE, gain + NOISE)

    def tuned(self, folder: Path, settings: Quantize | None = None) -> tuple[QuantPlan, dict[str, Trial], Tuning]:
        settings = settings or Quantize(tune=Tune())
        plan, tuning = tune_stage(settings, self.make, self.fidelity, self.compare, folder, say=self.raced.append)
        return plan, {trial.name: trial for trial in tuning.trials}, tuning


def test_equal_files_leave_the_recipe_as_it_is(tmp_path: Path) -> None:
    plan, trials, tuning = Simulated().tuned(tmp_path)
    assert plan == plan_of(Quantize())
    assert tuning.kept == ()
    assert {trial.reason for trial in trials.values()} == {"as fast, within noise"}
    assert list(trials) == [
        "matmul_inputs, qdq",
        "all_matmul_inputs, integer",
        "all_matmul_inputs, qdq",
        "full, integer",
        "full, qdq",
        "attention plain",
        "one range at ffn.input",
        "one range at ffn.activation",
        "one range at layer.0/ffn.activation",
        "one range at layer.1/ffn.activation",
    ]


def test_what_is_faster_beyond_noise_is_kept_and_built_upon(tmp_path: Path) -> None:
    world = Simulated({"qdq": -0.1, "plain layer.1/ffn.activation": -0.1, "full": 0.5})
    plan, trials, tuning = world.tuned(tmp_path)
    assert [trial.name for trial in tuning.kept] == ["matmul_inputs, qdq", "one range at ffn.activation"]
    assert trials["full, integer"].reason == "slower"
    assert trials["one range at ffn.activation"].speedup == pytest.approx(0.9 / 0.8)
    assert plan.entries[-1].lowering == "qdq"
    assert not any(entry.lowering == "expand" for entry in plan.entries)
    assert "one range at layer.0/ffn.activation" not in trials, "nothing there is expanded any more"


@pytest.mark.parametrize(("gain", "kept"), [(NOISE - 0.005, False), (NOISE + 0.005, True)])
def test_a_gain_within_noise_is_none(tmp_path: Path, gain: float, kept: bool) -> None:
    _, trials, _ = Simulated({"qdq": -gain / (1 + gain)}).tuned(tmp_path)
    assert trials["matmul_inputs, qdq"].speedup == pytest.approx(1 + gain)
    assert trials["matmul_inputs, qdq"].kept is kept


def test_the_limit_holds_for_all_changes_together(tmp_path: Path) -> None:
    """Each layer's site may lose 0.6 dB of 1 dB, both together may not; a file below the limit is not timed."""
    sites = [f"plain layer.{layer}/ffn.activation" for layer in (0, 1)]
    world = Simulated(dict.fromkeys(sites, -0.2), dict.fromkeys(sites, 0.6))
    plan, trials, tuning = world.tuned(tmp_path)
    assert tuning.least_sqnr_db == 29.0
    role = trials["one range at ffn.activation"]
    assert (role.kept, role.speedup, role.sqnr_db) == (False, None, pytest.approx(28.8))
    assert role.reason == "28.8 dB, below the limit of 29.0 dB"
    assert [trial.name for trial in tuning.kept] == ["one range at layer.0/ffn.activation"]
    assert trials["one range at layer.1/ffn.activation"].sqnr_db == pytest.approx(28.8)
    assert [entry.site.id for entry in plan.entries if entry.lowering == "expand"] == ["layer.1/ffn.activation"]


def test_a_wider_limit_lets_both_go(tmp_path: Path) -> None:
    sites = [f"plain layer.{layer}/ffn.activation" for layer in (0, 1)]
    world = Simulated(dict.fromkeys(sites, -0.2), dict.fromkeys(sites, 0.6))
    _, _, tuning = world.tuned(tmp_path, Quantize(tune=Tune(loss_db=1.5)))
    assert [trial.name for trial in tuning.kept] == ["one range at ffn.activation"]


def test_a_file_that_cannot_be_made_is_a_trial_with_its_reason(tmp_path: Path) -> None:
    plan, trials, _ = Simulated({"qdq": -0.5}, broken="full").tuned(tmp_path)
    assert (trials["full, integer"].reason, trials["full, integer"].kept) == ("no such kernel", False)
    assert plan.entries[-1].lowering == "qdq"


def test_a_recipe_whose_own_file_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such kernel"):
        Simulated(broken="matmul_inputs").tuned(tmp_path)


@pytest.mark.parametrize(
    "start", [{}, {"matmul": "qdq"}, {"placement": "full"}, {"placement": "full", "matmul": "qdq"}]
)
@pytest.mark.parametrize("best", ["full", "qdq", "integer", "matmul_inputs", "full and qdq"])
def test_the_result_is_no_slower_than_any_fixed_choice(tmp_path: Path, start: dict[str, str], best: str) -> None:
    world = Simulated({best: -0.3})
    plan, _, _ = world.tuned(tmp_path, Quantize(tune=Tune(), **start))
    fixed = [
        world.make(Quantize(placement=placement, matmul=form), tmp_path / "fixed") and world.time(tmp_path / "fixed")
        for placement in ("matmul_inputs", "full")
        for form in ("integer", "qdq")
    ]
    (tmp_path / "tuned").write_text("\n".join(facts_of(plan)))
    assert world.time(tmp_path / "tuned") <= min(fixed)


@pytest.mark.parametrize("start", ["fused", "plain"])
@pytest.mark.parametrize("best", ["fused", "plain"])
def test_attention_is_tried_in_both_forms_once(tmp_path: Path, start: str, best: str) -> None:
    world = Simulated({f"attention {best}": -0.1})
    plan, trials, _ = world.tuned(tmp_path, Quantize(tune=Tune(), attention=start))
    assert plan.attention == best
    other = {"fused": "plain", "plain": "fused"}[start]
    assert [name for name in trials if name.startswith("attention")] == [f"attention {other}"]


@pytest.mark.parametrize("settings", [{"matmul": "qdq"}, {"placement": "full"}])
def test_attention_has_one_form_where_it_is_not_fused(settings: dict[str, str]) -> None:
    start = Quantize(**settings)
    assert not any(change.name.startswith("attention") for change in changes(start, plan_of(start)))


def test_a_target_with_one_form_is_not_tried_in_another(tmp_path: Path) -> None:
    found = changes(openvino := Quantize(target="openvino"), plan_of(openvino))
    assert not any("integer" in change.name for change in found)


def test_a_change_is_told_as_a_recipe_would_say_it(recipe_of: Callable[[Mapping[str, object]], Quantize]) -> None:
    start = Quantize()
    for change in changes(start, plan_of(start)):
        assert recipe_of(change.told) == change.settings, change.name


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[[Mapping[str, object]], Quantize]:
    """The settings of a recipe whose `quantize` says only this, read from a file."""
    import json

    from qonnx_pipe.recipe import load
    from tests.unit.recipe.texts import PLAIN, written

    def read(told: Mapping[str, object]) -> Quantize:
        return load(written(tmp_path, f"{PLAIN}quantize: {json.dumps(told)}\n")).quantize

    return read


def test_what_was_tried_survives_json(tmp_path: Path) -> None:
    import json

    _, _, tuning = Simulated({"qdq": -0.1}, {"full": 9.0}).tuned(tmp_path)
    assert Tuning.from_json(json.loads(json.dumps(tuning.to_json()))) == tuning


def test_losing_files_do_not_fill_the_disk(tmp_path: Path) -> None:
    Simulated({"qdq": -0.1}).tuned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
