"""The pipeline recomputes what a change concerns and nothing else, survives damage, and says what came from what."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from qonnx_pipe import pipeline
from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.core.layers import Layers
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.site import Role
from qonnx_pipe.core.tuning import Tuning
from qonnx_pipe.core.verdict import Result, Verdict
from qonnx_pipe.errors import DataError, ModelError, ProviderError
from qonnx_pipe.pipeline import STAGES as ALL_STAGES
from qonnx_pipe.pipeline import Progress, RunResult
from qonnx_pipe.recipe import load
from qonnx_pipe.runtime import client
from qonnx_pipe.runtime.client import Installed
from qonnx_pipe.runtime.providers import openvino
from qonnx_pipe.stages.calibrate import read_table
from qonnx_pipe.stages.round import read_rounding
from qonnx_pipe.stages.tune import Measured
from qonnx_pipe.store import Store
from tests.zoo.projects import Project, make_project, table

pytestmark = pytest.mark.export

STAGES = tuple(stage for stage in ALL_STAGES if stage not in ("sensitivity", "timing", "tune", "qat", "round"))
"""Of a recipe that has no budget, searches and trains nothing, and rounds to the nearest."""


@dataclass
class Runner:
    """Runs a copy of a finished project again; `heard` is what the last run told."""

    project: Project
    heard: list[Progress] = field(default_factory=list)

    def run(self, *overrides: str, out: Path | None = None, **options: object) -> RunResult:
        self.heard = []
        recipe = load(self.project.recipe, overrides)
        store = Store(self.project.cache)
        return pipeline.run(recipe, out or self.project.out, self.heard.append, store=store, **options)

    def bytes(self, out: Path | None = None) -> dict[str, bytes]:
        root = out or self.project.out
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def runner(project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Its judges take no time and say what they said in the finished run: what they measure is not tested here."""
    verdict = Verdict.from_json(json.loads((project().out / "verdict.json").read_bytes()))
    layers = Layers.from_json(json.loads((project().out / "layers.json").read_bytes()))
    monkeypatch.setattr("qonnx_pipe.stages.validate.validate", lambda *_, **__: verdict)
    monkeypatch.setattr("qonnx_pipe.stages.trace.trace_stage", lambda *_, **__: layers)
    return Runner(project().copy_of_the_run(tmp_path))


def kinds(heard: Sequence[Progress], stage: str) -> list[str]:
    return [progress.kind for progress in heard if progress.stage == stage]


def test_a_second_run_takes_everything_from_the_store(runner: Runner) -> None:
    before = runner.bytes()
    result = runner.run()
    assert result.recomputed == ()
    assert result.damaged == ()
    assert [(progress.stage, progress.kind) for progress in runner.heard] == [(stage, "cached") for stage in STAGES]
    assert runner.bytes() == before
    assert result.verdict is not None
    assert result.verdict.passed


def test_a_baseline_judges_anew_and_only_once(runner: Runner, tmp_path: Path) -> None:
    shutil.copy(runner.project.out / "verdict.json", tmp_path / "old.json")
    override = f"validate.baseline={tmp_path / 'old.json'}"
    result = runner.run(override)
    assert result.recomputed == ("validate", "report")
    assert result.verdict is not None
    assert {gate.name for gate in result.verdict.gates} >= {"baseline.size_ratio", "baseline.sqnr_db[cpu]"}
    assert runner.run(override).recomputed == ()
    shutil.move(tmp_path / "old.json", tmp_path / "moved.json")
    assert runner.run(f"validate.baseline={tmp_path / 'moved.json'}").recomputed == (), "its content counts"
    with pytest.raises(DataError, match="there is no such verdict"):
        runner.run(override)
    assert runner.run().recomputed == ()


def test_another_run_directory_gets_the_same_files(runner: Runner, tmp_path: Path) -> None:
    assert runner.run(out=tmp_path / "other").recomputed == ()
    assert runner.bytes(tmp_path / "other") == runner.bytes()


@pytest.mark.parametrize(
    ("override", "recomputed"),
    [
        ("validate.gates.agreement=0.4", ("validate",)),
        ("data.evaluation.samples=9", ("validate",)),
        ("data.evaluation.max_length=12", ("validate",)),
        ("quantize.rules[0].activations={symmetric: true, range: mse}", ("plan", "quantize", "validate", "report")),
        ("quantize.weights.dtype=uint8", ("plan", "quantize", "validate", "report")),
        ("data.calibration.samples=20", STAGES[2:]),
        ("data.calibration.seed=1", STAGES[2:]),
        ("data.calibration.batch_size=6", STAGES[2:]),
        ("data.calibration.max_length=20", STAGES[2:]),
        ("quantize.rules[0].match.role=ffn.activation", STAGES[1:]),
        ("name=other", ("quantize", "validate", "report")),
    ],
)
def test_a_change_recomputes_what_it_concerns(runner: Runner, override: str, recomputed: tuple[str, ...]) -> None:
    """A verdict that comes out the same, as here, leaves the report as it is."""
    assert runner.run(override).recomputed == recomputed
    assert runner.run(override).recomputed == ()
    assert runner.run().recomputed == (), "the entries of the first run are still there"


@pytest.mark.parametrize(("how", "few"), [("adaround", "iterations: 20, tokens: 100"), ("gptq", "tokens: 100")])
def test_rounding_by_data_is_a_stage_of_its_own(runner: Runner, how: str, few: str) -> None:
    """Between calibration and quantization, cached like any other, and only where a recipe asks for it."""
    asks = (f"quantize.weights.rounding={how}", f"quantize.{how}={{{few}}}")
    first = runner.run(*asks, last="quantize")
    assert first.recomputed[-2:] == ("round", "quantize")
    assert tuple(first.files) == ("export", "plan", "calibrate", "round", "quantize")
    assert [path.name for path in first.files["round"]] == ["rounding.npz"]
    learned = read_rounding(runner.project.out / "rounding.npz")
    plan = json.loads((runner.project.out / "plan.json").read_bytes())
    asked = {entry["site"] for entry in plan["entries"] if entry["spec"] and entry["spec"]["rounding"] == how}
    assert learned.keys() == asked
    stored = {
        value.name: onnx.numpy_helper.to_array(value)
        for value in onnx.load(first.files["quantize"][1]).graph.initializer
    }
    codes = learned["layer.0/weight[ffn.output]"].codes
    assert any(array.shape == codes.shape and np.array_equal(array, codes) for array in stored.values())
    assert runner.run(*asks, last="quantize").recomputed == ()
    other = {"adaround": "gptq", "gptq": "adaround"}[how]
    assert runner.run(*asks, f"quantize.{other}.tokens=99", last="quantize").recomputed == (), "of no concern"
    assert runner.run(*asks, f"quantize.{how}.tokens=99", last="quantize").recomputed[:1] == ("round",)
    changed = runner.run(*asks, "quantize.weights.dtype=int4", last="quantize").recomputed
    assert changed[-2:] == ("round", "quantize")


@pytest.fixture
def qdq_is_faster(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A search whose every file is as good as float; those of standard operators are twice as fast. What it raced."""
    raced: list[Path] = []

    def compare(_self: Measured, *files: Path) -> tuple[float, tuple[float, float]]:
        raced.append(files[1])
        integer = ["MatMulIntegerToFloat" in {node.op_type for node in onnx.load(file).graph.node} for file in files]
        gain = 2.0 ** (integer[0] - integer[1])
        return gain, (gain - 0.1, gain + 0.1)

    monkeypatch.setattr(Measured, "fidelity", lambda *_: 30.0)
    monkeypatch.setattr(Measured, "compare", compare)
    return raced


def test_tuning_is_a_stage_of_its_own(runner: Runner, qdq_is_faster: list[Path]) -> None:
    """Between calibration and quantization, cached like any other; what it found is what is quantized."""
    asked = ("quantize.tune={rounds: 5}",)
    first = runner.run(*asked, last="quantize")
    assert tuple(first.files) == ("export", "plan", "calibrate", "tune", "quantize")
    assert sorted(path.name for path in first.files["tune"]) == ["plan.json", "tuning.json"]
    tuning = Tuning.from_json(json.loads((runner.project.out / "tuning.json").read_bytes()))
    assert [trial.name for trial in tuning.kept] == ["matmul_inputs, qdq"]
    made = QuantPlan.from_json(json.loads((runner.project.out / "plan.json").read_bytes()))
    assert {entry.lowering for entry in made.quantized if entry.site.role is Role.WEIGHT} == {"qdq"}
    operators = {node.op_type for node in onnx.load(runner.project.out / "model.onnx").graph.node}
    assert "MatMulIntegerToFloat" not in operators
    count = len(qdq_is_faster)
    assert runner.run(*asked, last="quantize").recomputed == ()
    assert len(qdq_is_faster) == count > 0
    assert runner.run(*asked, "quantize.tune.loss_db=2", last="quantize").recomputed == ("tune",)
    assert runner.run(last="quantize").recomputed == (), "without a search the recipe holds"


def test_a_search_needs_its_target_here_or_in_another_interpreter(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(openvino.PROVIDER), "version", lambda _: None)
    asked = ("quantize.target=openvino", "quantize.tune={rounds: 5}")
    with pytest.raises(ProviderError, match="'openvino' is not available here"):
        runner.run(*asked, last="quantize")
    assert runner.heard == [], "told before any work"
    elsewhere = "validate={providers: [openvino], interpreters: {openvino: env/bin/python}}"
    with pytest.raises(ProviderError, match=r"env/bin/python cannot be started"):
        runner.run(*asked, elsewhere, last="quantize")


def test_tokens_that_the_plan_needs_are_collected(runner: Runner) -> None:
    override = "quantize.rules[0].activations={smooth: 0.5, range: minmax}"
    assert runner.run(override, last="calibrate").recomputed == ("plan", "calibrate")
    table = read_table(runner.project.out / "calibration.npz")
    sampled = {site: len(seen.samples) for site, seen in table.sites.items() if seen.samples is not None}
    plan = json.loads((runner.project.out / "plan.json").read_bytes())
    inputs = {entry["site"] for entry in plan["entries"] if entry["feeds"] and entry["site"] in table.sites}
    assert sampled.keys() == inputs
    assert len({count for site, count in sampled.items() if site.startswith("layer.")}) == 1


def test_other_evaluation_texts_recompute_the_verdict_alone(runner: Runner, tmp_path: Path) -> None:
    other = table(tmp_path / "other.csv", seed=5)
    assert runner.run(f"data.evaluation.source={other}").recomputed == ("validate",)
    other.write_text(other.read_text().replace("positive", "negative"))
    assert runner.run(f"data.evaluation.source={other}").recomputed == ("validate",), "bytes count, not names"


def test_the_same_texts_elsewhere_are_the_same(runner: Runner, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes((runner.project.folder / "data.csv").read_bytes())
    assert runner.run(f"data.evaluation.source={copy}", f"data.calibration.source={copy}").recomputed == ()


def test_two_models_never_share_an_entry(runner: Runner, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The same configuration, one bit of one weight apart."""
    copy = shutil.copytree(checkpoint("bert", "text-classification"), tmp_path / "checkpoint")
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1
    weights.write_bytes(content)
    before = keys(runner.project.out)
    result = runner.run(f"model.source={copy}")
    assert result.recomputed == STAGES
    after = keys(runner.project.out)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def keys(out: Path) -> dict[str, str]:
    return {one["path"]: one["key"] for one in json.loads((out / "manifest.json").read_bytes())["artifacts"]}


@pytest.mark.parametrize("first", STAGES[1:])
def test_from_a_stage_on_everything_is_made_anew(runner: Runner, first: str) -> None:
    before = runner.bytes()
    assert runner.run(first=first).recomputed == STAGES[STAGES.index(first) :]
    assert kinds(runner.heard, first)[0] == "start"
    assert runner.bytes() == before


@pytest.mark.parametrize("last", STAGES)
def test_until_a_stage(runner: Runner, tmp_path: Path, last: str) -> None:
    result = runner.run(out=tmp_path / "short", last=last)
    reached = STAGES[: STAGES.index(last) + 1]
    assert tuple(result.files) == reached
    assert (result.verdict is not None) == (last in ("validate", "report"))
    listed = {path for files in result.files.values() for path in files} | {tmp_path / "short/manifest.json"}
    assert {path for path in (tmp_path / "short").rglob("*") if path.is_file()} == listed


@pytest.mark.parametrize(
    ("override", "last", "kind"),
    [
        ("data.calibration.source=nowhere.csv", None, DataError),
        ("data.evaluation.source=nowhere.csv", "validate", DataError),
        ("validate.providers=[gpu9]", "export", ProviderError),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    runner: Runner, tmp_path: Path, override: str, last: str | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        runner.run(override, out=tmp_path / "new", last=last)
    assert runner.heard == []
    assert not (tmp_path / "new").exists()


def test_a_missing_provider_is_told_at_once_and_a_failed_one_is_tried_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store keeps a verdict for good, but not that a worker was killed."""
    error = "provider failed: xnnpack: killed by signal 9 (SIGKILL)"
    verdict = Verdict.from_json(json.loads((runner.project.out / "verdict.json").read_bytes()))
    failed = replace(verdict, results=(*verdict.results, Result("xnnpack", "quantized", error=error)))
    change = "validate.providers=[cpu, xnnpack]"
    monkeypatch.setattr("qonnx_pipe.stages.validate.validate", lambda *_, **__: failed)
    assert "validate" in runner.run(change).recomputed
    first = runner.heard[0]
    assert (first.stage, first.kind) == ("validate", "warning")
    assert "'xnnpack' is not available here" in first.text
    assert "validate" in runner.run(change).recomputed
    monkeypatch.setattr("qonnx_pipe.stages.validate.validate", lambda *_, **__: verdict)
    assert "validate" in runner.run(change).recomputed
    assert runner.run(change).recomputed == ()


def test_what_another_interpreter_has_decides_a_verdict(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Installed("1.24.1", "", "1.24.1", "python")
    monkeypatch.setattr(client, "installed", lambda *_: there)
    change = "validate={providers: [openvino], interpreters: {openvino: env/bin/python}}"
    assert "validate" in runner.run(change).recomputed
    assert runner.run(change).recomputed == ()
    monkeypatch.setattr(client, "installed", lambda *_: replace(there, version="1.24.2"))
    assert "validate" in runner.run(change).recomputed


def test_data_that_are_not_needed_are_not_read(runner: Runner) -> None:
    assert runner.run("data.evaluation.source=nowhere.csv", last="quantize").recomputed == ()


def test_what_a_failing_stage_leaves(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("no")

    before = runner.bytes()
    monkeypatch.setattr("qonnx_pipe.stages.quantize.quantize_stage", fail)
    with pytest.raises(ModelError):
        runner.run(first="quantize")
    monkeypatch.undo()
    assert runner.run().recomputed == (), "what was there stays until something new takes its place"
    assert runner.bytes() == before


@pytest.mark.parametrize("name", ["float/model.onnx", "plan.json", "calibration.npz", "model.onnx", "verdict.json"])
def test_a_damaged_entry_is_made_again_and_told(runner: Runner, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = runner.bytes()
    stored = runner.project.cache / "entries"
    file = next(path for path in stored.rglob(Path(name).name) if path.read_bytes() == before[name])
    file.write_bytes(file.read_bytes()[:-1])
    if name.startswith("float"):
        monkeypatch.setattr("qonnx_pipe.stages.export.export_stage", copying(runner.project.out / "float"))
    result = runner.run()
    assert len(result.recomputed) == 1, "its bytes are the same again, so nothing after it changes"
    assert len(result.damaged) == 1
    assert Path(name).name in result.damaged[0]
    assert runner.bytes() == before


def copying(source: Path) -> Callable[..., None]:
    """An export stage that takes the files of an earlier one."""
    content = {path.name: path.read_bytes() for path in source.iterdir()}

    def export(_source: str, _task: str, folder: Path, **_: object) -> None:
        for name, data in content.items():
            (folder / name).write_bytes(data)

    return export


@pytest.mark.parametrize("name", ["float/model.onnx", "model.onnx", "verdict.json", "report.html", "manifest.json"])
def test_a_damaged_or_missing_run_file_is_restored(runner: Runner, name: str) -> None:
    before = runner.bytes()
    for harm in (lambda path: path.write_bytes(b"damaged"), Path.unlink):
        harm(runner.project.out / name)
        assert runner.run().recomputed == ()
        assert runner.bytes() == before


def test_the_manifest_agrees_with_the_files(runner: Runner) -> None:
    manifest = json.loads((runner.project.out / "manifest.json").read_bytes())
    listed = {one["path"]: one["sha256"] for one in manifest["artifacts"]}
    present = {name for name in runner.bytes() if name != "manifest.json"}
    assert set(listed) == present
    for name, digest in listed.items():
        assert sha256_file(runner.project.out / name) == digest
    assert {"qonnx-pipe", "torch", "onnx", "onnxruntime"} <= manifest["versions"].keys()


def test_parents_are_what_a_stage_was_made_from(runner: Runner) -> None:
    artifacts = json.loads((runner.project.out / "manifest.json").read_bytes())["artifacts"]
    made_by = {one["sha256"]: one["kind"] for one in artifacts}
    parents = {
        one["path"]: {made_by.get(parent, "outside") for parent in one["parents"]} - {"export:config.json"}
        for one in artifacts
    }
    texts = {"export:tokenizer.json", "export:tokenizer_config.json", "export:special_tokens_map.json"}
    assert parents["float/model.onnx"] == {"outside"}  # the checkpoint
    assert parents["plan.json"] == {"export:model.onnx"}
    assert parents["calibration.npz"] == {"export:model.onnx", *texts, "outside"}  # the texts
    assert parents["model.onnx"] == {"export:model.onnx", "plan:plan.json", "calibrate:calibration.npz"}
    judged = {"quantize:model.onnx", "quantize:encodings.json"}
    assert parents["verdict.json"] == {"export:model.onnx", *texts, "plan:plan.json", *judged, "outside"}
    assert parents["report.html"] >= {"validate:verdict.json", "quantize:encodings.json"}


def test_what_is_written_is_strict_json(runner: Runner) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for name, content in runner.bytes().items():
        if name.endswith(".json"):
            json.loads(content, parse_constant=refuse)


def test_the_model_says_which_recipe_made_it(runner: Runner) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(runner.project.out / "model.onnx").metadata_props}
    assert metadata["qonnx_pipe.recipe"] == "tiny"
    assert metadata["qonnx_pipe.task"] == "text-classification"


def test_steps_are_told_while_a_stage_works(runner: Runner) -> None:
    runner.run(first="calibrate")
    steps = [progress for progress in runner.heard if progress.stage == "calibrate"]
    assert [progress.kind for progress in steps] == ["start", "start", *["step"] * 7, "done"]
    assert steps[1].total == 6  # 24 samples, 4 a batch
    assert sum(progress.total for progress in steps[2:]) == 6
    assert steps[-1].seconds > 0


def test_a_project_is_written_without_being_run(tmp_path: Path) -> None:
    made = make_project(tmp_path / "p", tmp_path, "text-classification")
    assert load(made.recipe).name == "tiny"
    assert not made.out.exists()
