"""Budgets on a tiny classifier: sensitivity, allocation, plan and run; what cannot be had is told."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.core.sensitivity import ESTIMATORS, Sensitivity
from qonnx_pipe.core.site import Site
from qonnx_pipe.core.times import FLOAT, Times
from qonnx_pipe.graph.size import breakdown
from qonnx_pipe.stages.timing import Timed
from tests.e2e.tiny import RECIPE, TEXTS, write_csv

pytestmark = pytest.mark.export

LAYERS, OWNERS, TABLES = 2, 6, 3
TAYLOR = ("--set", "quantize.budget.estimator=taylor")


@pytest.fixture(scope="module")
def home(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint, texts and recipe, and a cache."""
    folder = tmp_path_factory.mktemp("budget")
    shutil.copytree(checkpoint("bert", "text-classification"), folder / "checkpoint")
    write_csv(folder / "texts.csv", TEXTS)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def qpipe(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`qpipe(command, *options)`: exit code, stdout, stderr of a command on the recipe."""
    monkeypatch.setenv("QPIPE_CACHE", str(home / "cache"))

    def run(*words: str) -> tuple[int, str, str]:
        *command, last = words[: words.index("RECIPE") + 1]
        code = main([*command, str(home / "recipe.yaml"), *words[words.index("RECIPE") + 1 :]])
        said = capsys.readouterr()
        assert last == "RECIPE"
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.mark.slow
def test_sensitivity_answers_everything(qpipe, tmp_path: Path) -> None:
    code, out, _ = qpipe("analyse", "sensitivity", "RECIPE", "--out", str(tmp_path), "--json")
    assert code == 0
    written = json.loads(out)
    found = Sensitivity.from_json(written)
    assert json.loads(json.dumps(found.to_json())) == written
    assert found.estimators == ESTIMATORS
    assert (len(found.matrices), len(found.layers), found.labels) == (LAYERS * OWNERS + TABLES, LAYERS, "data")
    for one in found.matrices:
        assert set(one.bytes) == ({2, 4, 8} if one.layer is None else {2, 3, 4, 8})
        assert one.changes[2].divergence > one.changes[8].divergence >= 0
        assert one.errors[2] > one.errors[4] > one.errors[8] > 0
        assert one.changes[2].sqnr_db < one.changes[8].sqnr_db < 150
    assert all(len(layer.runs) == 10 for layer in found.layers)
    assert len(found.slices) == 2
    page = (tmp_path / "sensitivity.html").read_text()
    assert page.count('<svg class="heat"') == 2
    assert "http" not in page.replace("http-equiv", "")


def test_a_budget_is_shared_out_and_kept(qpipe) -> None:
    code, out, _ = qpipe("plan", "RECIPE", "--budget", "bits=3", "--json")
    assert code == 0
    plan = json.loads(out)
    chosen = plan["allocation"]["bits"]
    assert len(chosen) == LAYERS * OWNERS
    assert plan["allocation"]["amounts"]["bits"] <= 3
    assert len(set(chosen.values())) > 1
    specs = {entry["site"]: entry for entry in plan["entries"]}
    assert {site: specs[site]["spec"]["dtype"] for site in chosen} == {
        site: f"int{bits}" for site, bits in chosen.items()
    }
    assert {specs[site]["rule"] for site in chosen} == {"budget"}
    sizes = [point["amounts"]["size"] for point in plan["allocation"]["front"]]
    assert sizes == sorted(sizes)


def test_the_rules_are_the_same_choice(qpipe, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = qpipe("plan", "RECIPE", "--budget", "bits=3", "--json")
    shared = json.loads(out)
    rules = "".join(f"  {line}\n" for line in shared["allocation"]["rules"].splitlines())
    copied = home / "copied.yaml"
    copied.write_text(RECIPE.replace("validate:", f"quantize:\n{rules}validate:"))
    assert main(["plan", str(copied), "--json"]) == 0
    again = {entry["site"]: entry["spec"] for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert again == {entry["site"]: entry["spec"] for entry in shared["entries"]}


def test_q_berts_rule_in_a_recipe(qpipe, tmp_path: Path) -> None:
    """Whole layers of two or three bits; the run leaves sensitivity.json, and a second one finds everything made."""
    budget = "quantize.budget={bits: 2.5, choices: [2, 3], strategy: qbert}"
    code, _, _ = qpipe("run", "RECIPE", "--set", budget, "--out", str(tmp_path))
    assert code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    widths = {
        e["site"]: e["spec"]["dtype"] for e in plan["entries"] if e["role"] == "weight" and e["layer"] is not None
    }
    by_layer = [{dtype for site, dtype in widths.items() if site.startswith(f"layer.{n}/")} for n in range(LAYERS)]
    assert sorted(map(sorted, by_layer)) == [["int2"], ["int3"]]
    found = Sensitivity.from_json(json.loads((tmp_path / "sensitivity.json").read_text()))
    omegas = [layer.omega for layer in found.layers]
    assert by_layer[omegas.index(max(omegas))] == {"int3"}
    _, _, said = qpipe("run", "RECIPE", "--set", budget, "--out", str(tmp_path))
    assert said.count("unchanged") == 7
    assert "Sensitivity" in (tmp_path / "report.html").read_text()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, Path]]:
    """What a machine is given where a matrix takes 1.5 ms in float, 0.5 ms in bits, and all else 1 ms.

    Tables are the same in all files: what these differ by falls to the weights.
    """
    seen: list[dict[int, Path]] = []

    def measured(
        _model: Path, variants: dict[int, Path], sites: list[Site], wish: Timed, progress: Callable[[int], None]
    ) -> Times:
        progress(wish.steps)
        assert len({breakdown(file)["embeddings"] for file in variants.values()}) == 1
        seen.append(variants)
        own = {bits: 1.5 if bits == FLOAT else 0.5 for bits in variants}
        return Times(wish.provider, wish.shape, 2, wish.rounds, 20.0, 1.0, 0.5, {site.id: own for site in sites})

    monkeypatch.setattr("qonnx_pipe.stages.timing.timing_stage", measured)
    return seen


def test_a_latency_keeps_what_costs_most_in_float(
    qpipe, simulated: list[dict[int, Path]], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path)
    code, out, said = qpipe("plan", "RECIPE", "--budget", "latency=0.65x", "--out", folder, "--json")
    assert code == 0
    assert "speed-ups vary by 50%: the machine is busy" in said
    (variants,) = simulated
    assert set(variants) == {2, 3, 4, 8, FLOAT}
    assert len(set(variants.values())) == 2  # all but float unpack to the same bytes
    plan = json.loads(out)
    allocation = plan["allocation"]
    floats = {site for site, bits in allocation["bits"].items() if bits == FLOAT}
    found = Sensitivity.from_json(json.loads((tmp_path / "sensitivity.json").read_text()))
    ranked = sorted(found.matrices, key=lambda one: -one.costs["measured"][8])
    assert floats == {one.site for one in ranked[:6]}  # 1 + 12 · 0.5 + 6 · 1 = 13 ms
    assert allocation["amounts"]["latency"] == pytest.approx(13.0)
    assert allocation["times"]["float_ms"] == 20.0
    entries = {entry["site"]: entry for entry in plan["entries"]}
    assert {entries[site]["reason"] for site in floats} == {"the budget leaves it float"}
    for layer, read in ((0, "embedding.norm"), (1, "layer.0/layer.output")):
        owners = ("attention.query", "attention.key", "attention.value")
        whole = floats >= {f"layer.{layer}/weight[{owner}]" for owner in owners}
        assert (entries[read]["spec"] is None) == whole  # nothing in codes is left to read it
    copied = home / "floats.yaml"
    rules = "".join(f"  {line}\n" for line in allocation["rules"].splitlines())
    copied.write_text(RECIPE.replace("validate:", f"quantize:\n{rules}validate:"))
    assert main(["plan", str(copied), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["site"]: entry["spec"] for entry in again} == {site: one["spec"] for site, one in entries.items()}
    code, said, _ = qpipe("plan", "RECIPE", "--budget", "latency=0.65x", "--budget", "size=72kB")
    assert code == 0
    assert "ms (0." in said
    assert "1×128 on cpu" in said
    code, _, said = qpipe("plan", "RECIPE", "--budget", "latency=6ms")
    assert (code, "the nearest that can: latency=7.00ms" in said) == (1, True)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What progress bars are for → their total, then what they advance by."""
    seen: dict[str, list[int]] = {}

    @contextmanager
    def drawn(description: str, total: int) -> Iterator[SimpleNamespace]:
        seen[description] = [total]
        yield SimpleNamespace(advance=seen[description].append)

    monkeypatch.setattr("qonnx_pipe.cli.output.progress", drawn)
    return seen


def test_blocks_have_a_kernel_for_each_width(
    qpipe, simulated: list[dict[int, Path]], bars: dict[str, list[int]]
) -> None:
    settings = ["quantize.weights={granularity: {per_group: 16}}", "quantize.budget.embeddings=[2, 4, 8]"]
    options = [word for setting in settings for word in ("--set", setting)]
    code, out, _ = qpipe("plan", "RECIPE", "--budget", "latency=7ms", *options, "--json")
    assert code == 0
    (variants,) = simulated
    assert len(set(variants.values())) == len(variants) == 5
    total, *steps = bars["timing"]
    assert total == sum(steps) == 5 + 14  # files, and seven rounds of files and of profiles
    chosen = json.loads(out)["allocation"]["bits"]
    assert len(chosen) == LAYERS * OWNERS + TABLES
    assert {bits for site, bits in chosen.items() if "weight" in site} == {8}  # 1 + 12 · 0.5 = 7 ms


def test_a_busy_machine_is_told_with_what_measures_again(
    qpipe, simulated: list[dict[int, Path]], tmp_path: Path
) -> None:
    """The command in the warning makes the very times anew that the next plan takes; no other test has these widths."""
    ask = ("--set", "quantize.budget.choices=[3, 8, float]", "--budget", "latency=0.9x")
    _, _, said = qpipe("plan", "RECIPE", *ask)
    (again,) = re.findall(r"`qpipe (run [^`]+)`", said)
    known = len(simulated)
    code, _, said = qpipe(*shlex.split(again), *ask[:2], "--out", str(tmp_path))
    assert (code, len(simulated)) == (0, known + 1)
    assert "busy" in said
    _, _, said = qpipe("plan", "RECIPE", *ask)
    assert (len(simulated), "timing      unchanged" in said) == (known + 1, True)


@pytest.mark.slow
def test_weights_are_really_timed(qpipe, tmp_path: Path) -> None:
    """Within ten times the float model's time everything may stay float, and the run goes through."""
    budget = ["--set", "quantize.budget={latency: 10x, choices: [8, float]}"]
    code, _, _ = qpipe("run", "RECIPE", *budget, "--out", str(tmp_path))
    assert code == 0
    times = Times.from_json(json.loads((tmp_path / "times.json").read_text()))
    assert len(times.matrices) == LAYERS * OWNERS
    assert all(own.keys() == {8, FLOAT} and own[FLOAT] > 0 for own in times.matrices.values())
    assert (times.float_ms > 0, times.noise >= 0) == (True, True)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {entry["reason"] for entry in plan["entries"] if entry["rule"] == "budget"} == {"the budget leaves it float"}
    assert ">float</td>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--budget", "bits=1.5"], 1, "the nearest that can: bits=2.00"),
        (["--budget", "size=1kB"], 1, "the nearest that can: size="),
        (["--budget", "weight=3"], 2, "no such budget"),
        (["--budget", "bits="], 2, "--budget bits=: no amount"),
        (["--budget", "bits"], 2, "--budget bits: no amount"),
        (["--budget", "bits=2", "--budget", "bits=3"], 2, "bits has a limit already, 2"),
        (["--budget", "bits=x"], 2, "must be a number, not 'x'"),
        (["--budget", "latency=-1"], 2, "-1 is no latency"),
        (["--budget", "latency=8"], 2, "8 is no latency"),
        (["--budget", "latency=0.5x", "--strategy", "greedy"], 2, "greedy cannot keep a latency"),
        (["--budget", "latency=0.5x", "--set", "quantize.target=qnn"], 2, "target qnn takes no float weights"),
        (["--budget", "latency=0.5x", "--set", "quantize.target=openvino"], 4, "openvino does not time single MatMuls"),
        (["--budget", "bits=3", "--max-drop", "1"], 2, "--max-drop finds the size itself, without a limit of bits"),
        (["--set", "quantize.budget.bits=x", "--max-drop", "1"], 2, "must be a number, not 'x'"),
        (["--strategy", "exact"], 2, "--strategy exact shares out a budget"),
        (["--budget", "size=30"], 2, "30 is no size"),
        (["--budget", "bits=3", "--strategy", "qbert"], 2, "chooses between two widths"),
        (["--set", "quantize.budget={choices: [2, 3]}"], 2, "a budget without a limit"),
        (
            ["--budget", "bits=3", "--set", "quantize.rules=[{match: {role: weight}, weights: {dtype: int8}}]"],
            2,
            "rules",
        ),
        (["--budget", "bits=3", "--set", "quantize.target=qnn"], 2, "it would be int8"),
        (
            ["--set", "quantize={target: tensorrt, budget: {bits: 8, choices: [2, 8, float]}}"],
            2,
            "cannot have 2 bits (layer.0/weight[attention.query]: TensorRT multiplies 8 bits, not int2: kept float)"
            "\n  fix: choices: [8, float]",
        ),
        (
            ["--set", "quantize={target: tensorrt, budget: {bits: 8, choices: [2, float], embeddings: [2]}}"],
            2,
            "\n  fix: leave some weights' dtype to the budget",
        ),
        (["--set", "quantize.budget={bits: 3, choices: [5]}"], 2, "one of 2, 3, 4, 6, 8, float"),
        (["--budget", "bits=3", "--set", "model.task=feature-extraction", *TAYLOR], 2, "no class scores"),
    ],
)
def test_what_cannot_be_had(qpipe, options: list[str], code: int, says: str) -> None:
    found, _, said = qpipe("plan", "RECIPE", *options)
    assert says in said
    assert found == code


def test_max_drop_finds_the_smallest_file(qpipe) -> None:
    own = ["--set", "quantize.budget={choices: [2, 8], estimator: taylor}"]
    code, out, said = qpipe("plan", "RECIPE", *own, "--max-drop", "100", "--json")
    assert (code, "takes the place" in said) == (0, False)
    found = json.loads(out)["allocation"]
    assert found["amounts"]["bits"] == pytest.approx(2.0)  # everything may be lost
    assert all(trial["kept"] for trial in found["trials"])
    assert (found["budget"]["choices"], found["budget"]["estimator"]) == ([2, 8], "taylor")


def test_max_drop_takes_the_place_of_the_recipes_limits(qpipe) -> None:
    own = ["--set", "quantize.budget={choices: [2, 8], estimator: taylor, size: 1kB, bits: 1}"]
    code, out, said = qpipe("plan", "RECIPE", *own, "--max-drop", "100", "--json")
    assert code == 0
    assert "--max-drop takes the place of the recipe's bits and size" in " ".join(said.split())
    assert json.loads(out)["allocation"]["amounts"]["bits"] == pytest.approx(2.0)


def test_a_budget_needs_a_pipeline(home: Path, qpipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qpipe("plan", "RECIPE", "--out", str(tmp_path))
    model, table = tmp_path / "float" / "model.onnx", tmp_path / "t.npz"
    recipe = home / "asks.yaml"
    recipe.write_text(RECIPE.replace("validate:", "quantize: {budget: {bits: 3}}\nvalidate:"))
    assert main(["calibrate", str(model), "--data", str(home / "texts.csv"), "--out", str(table)]) == 0
    quantize = ["quantize", str(model), "--recipe", str(recipe), "--calibration", str(table)]
    assert main([*quantize, "--out", str(tmp_path / "q.onnx")]) == 2
    assert "a budget needs the sensitivity" in capsys.readouterr().err
