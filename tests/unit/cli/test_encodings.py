"""Encodings out of a run and back into its float model: the same file, or a clear word about what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from qonnx_pipe.cli import main
from tests.zoo.projects import Project

pytestmark = pytest.mark.export

Run = Callable[..., Path]
Command = Callable[..., tuple[int, Any, str]]

FULL = ("quantize.placement=full",)
ONE_TABLE_SCALE = "quantize.embeddings.granularity=per_tensor"


@pytest.fixture
def run(project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*settings)`: a run directory of the tiny project, up to its quantized model."""
    made = project().copy_of_the_run(tmp_path / "own")
    monkeypatch.setenv("QPIPE_CACHE", str(made.cache))

    def of(*settings: str) -> Path:
        sets = [word for setting in settings for word in ("--set", setting)]
        assert main(["run", str(made.recipe), "--out", str(tmp_path / "run"), "--until", "quantize", "-q", *sets]) == 0
        return tmp_path / "run"

    return of


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`command(*words)`: exit code, the JSON on stdout, stderr."""

    def of(*words: object) -> tuple[int, Any, str]:
        capfd.readouterr()
        code = main([*map(str, words), "--json"])
        out, errors = capfd.readouterr()
        assert "internal error" not in errors
        return code, json.loads(out) if out else None, errors

    return of


@pytest.fixture
def quantize(project: Callable[..., Project], command: Command, tmp_path: Path) -> Command:
    """`quantize(document, *settings)`: `qpipe quantize` of the float model with that file of encodings."""

    def of(document: object, *settings: str) -> tuple[int, Any, str]:
        file = tmp_path / "given.json"
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        sets = [word for setting in settings for word in ("--set", setting)]
        model, out = project().out / "float/model.onnx", tmp_path / "again.onnx"
        words = ["--recipe", project().recipe, "--from-encodings", file, "--out", out]
        return command("quantize", model, *words, *sets)

    return of


def outputs(model: Path) -> list[np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 40, (4, 9))
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = {port.name: np.ones_like(ids) for port in session.get_inputs()}
    return session.run(None, inputs | {"input_ids": ids})


@pytest.mark.parametrize(
    "case", [("1.0.0", FULL), ("0.6.1", FULL), ("1.0.0", (*FULL, ONE_TABLE_SCALE, "quantize.target=openvino"))]
)
def test_a_round_trip_gives_the_same_model(
    run: Run, command: Command, quantize: Command, tmp_path: Path, case: tuple[str, tuple[str, ...]]
) -> None:
    version, settings = case
    made, file = run(*settings), tmp_path / "e.json"
    code, told, _ = command("encodings", made, "--encoding-version", version, "--out", file)
    document = json.loads(file.read_text())
    assert (code, document["version"]) == (0, version)
    stored = json.loads((made / "encodings.json").read_text())
    tables = 0 if ONE_TABLE_SCALE in settings else 3
    assert [skip["site"].startswith("embedding.") for skip in told["skipped"]] == [True] * tables
    assert (told["activations"], told["params"]) == (len(stored["activations"]), len(stored["weights"]) - tables)
    code, told, _ = quantize(document, *settings)
    assert code == 0
    assert told["encodings"] == {"used": len(stored["activations"]) + len(stored["weights"]) - tables, "unused": []}
    for before, after in zip(outputs(made / "model.onnx"), outputs(tmp_path / "again.onnx"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_names_and_steps_are_the_float_models(run: Run, command: Command, tmp_path: Path) -> None:
    made = run(*FULL)
    assert command("encodings", made, "--out", tmp_path / "e.json")[0] == 0
    document = json.loads((tmp_path / "e.json").read_text())
    graph = onnx.load(made / "float/model.onnx").graph
    weights = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    turned = {node.input[1] for node in graph.node for one in node.attribute if one.name == "transB" and one.i}
    for entry in document["param_encodings"]:  # a scale an output channel, wherever these lie
        extent = np.abs(weights[entry["name"]]).max(axis=1 if entry["name"] in turned else 0)
        np.testing.assert_allclose(entry["scale"], extent / 127, rtol=1e-6)
    assert turned & {entry["name"] for entry in document["param_encodings"]}
    values = {name for node in graph.node for name in node.output}
    assert {entry["name"] for entry in document["activation_encodings"]} <= values


@pytest.mark.parametrize(
    ("rule", "left_out"),
    [
        (
            "{match: {role: ffn.input, layer: 0}, activations: {smooth: 0.7}}",
            {"layer.0/ffn.input": "folded", "layer.0/weight[ffn.activation]": "folded"},
        ),
        (
            "{match: {role: ffn.input, layer: 0}, activations: {smooth: 0.7, shift: true}}",
            {"layer.0/ffn.input": "folded", "layer.0/ffn.output": "folded"},
        ),
        (
            "{match: {role: ffn.input, layer: 0}, activations: {granularity: {per_embedding_group: 4}}}",
            {"layer.0/ffn.input": "4 scales"},
        ),
        (
            "{match: {role: ffn.input, layer: 0}, activations: {granularity: per_embedding, lowering: split}}",
            {"layer.0/ffn.input": "32 scales", "layer.0/weight[ffn.activation]": "rows"},
        ),
        (
            "{match: {role: ffn.activation, layer: 0}, activations: {range: minmax, lowering: expand}}",
            {"layer.0/ffn.activation": "further columns"},
        ),
        ("{match: {role: weight, layer: 0}, weights: {dtype: int2}}", {"layer.0/weight[ffn.output]": "2 bits"}),
        (
            "{match: {role: weight, layer: 0}, weights: {granularity: {per_group: 16}}}",
            {"layer.0/weight[ffn.output]": "a group of inputs"},
        ),
    ],
)
def test_what_has_no_such_form_is_left_out_and_told(
    run: Run, command: Command, tmp_path: Path, rule: str, left_out: dict[str, str]
) -> None:
    made = run(*FULL, f"quantize.rules=[{rule}]")
    code, told, _ = command("encodings", made, "--out", tmp_path / "e.json")
    assert code == 0
    document = json.loads((tmp_path / "e.json").read_text())
    named = {entry["name"] for section in list(document.values())[1:] for entry in section}
    plan = json.loads((made / "plan.json").read_text())
    tensors = {entry["site"]: entry["tensor"] for entry in plan["entries"]}
    reasons = {skip["site"]: skip["reason"] for skip in told["skipped"]}
    for site, reason in left_out.items():
        assert reason in reasons[site]
        assert tensors[site] not in named
    assert tensors["layer.1/ffn.input"] in named
    assert tensors["layer.1/weight[ffn.output]"] in named


def test_corrected_biases_are_told(run: Run, command: Command, tmp_path: Path) -> None:
    code, told, _ = command("encodings", run("quantize.bias_correction=true"), "--out", tmp_path / "e.json")
    assert code == 0
    assert sum("bias" in skip["reason"] for skip in told["skipped"]) == 14


def test_trained_weights_are_told(run: Run, command: Command, tmp_path: Path) -> None:
    made = run()
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["artifacts"].append({"kind": "qat", "path": "trained.onnx", "sha256": "0" * 64, "parents": [], "key": ""})
    (made / "manifest.json").write_text(json.dumps(manifest))
    code, told, _ = command("encodings", made, "--out", tmp_path / "e.json")
    assert code == 0
    assert "trained.onnx" in {skip["site"] for skip in told["skipped"]}


@pytest.fixture
def document(run: Run, command: Command, tmp_path: Path) -> dict[str, Any]:
    """The encodings of a plain run, version 1.0.0; every activation at 8 bits."""
    assert command("encodings", run(*FULL), "--out", tmp_path / "e.json")[0] == 0
    return json.loads((tmp_path / "e.json").read_text())


def activation(document: dict[str, Any], place: int = 0) -> dict[str, Any]:
    return document["activation_encodings"][place]


def test_what_the_file_does_not_name_stays_float_or_has_its_own_scales(
    document: dict[str, Any], quantize: Command, tmp_path: Path
) -> None:
    gone, as_float = activation(document, 5)["name"], activation(document, 6)
    del document["activation_encodings"][5]
    as_float |= {"dtype": "FLOAT", "bw": 16}
    document["param_encodings"] = []
    code, told, _ = quantize(document, *FULL)
    assert code == 0
    plan = json.loads((tmp_path / "again.plan.json").read_text())
    entries = {entry["tensor"]: entry for entry in plan["entries"]}
    assert [skip["site"] for skip in told["skipped"]] == [entries[gone]["site"]]
    assert entries[gone]["spec"] is entries[as_float["name"]]["spec"] is None
    assert entries[as_float["name"]]["reason"] == "float in given.json"
    assert told["encodings"]["used"] == len(document["activation_encodings"]) - 1
    weights = json.loads((tmp_path / "again.encodings.json").read_text())["weights"]
    assert len(weights) == sum(entry["role"] == "weight" or "word" in entry["site"] for entry in plan["entries"]) + 2
    assert np.isfinite(outputs(tmp_path / "again.onnx")[0]).all()


def test_what_the_recipe_leaves_float_is_told(document: dict[str, Any], quantize: Command) -> None:
    code, told, _ = quantize(document)
    assert code == 0
    assert 0 < len(told["encodings"]["unused"]) < len(document["activation_encodings"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d | {"version": "3.0"}, "version '3.0' is unknown"),
        (lambda d: {"some": "thing"}, "neither activation_encodings nor"),
        (lambda d: json.dumps(d)[:-30], "no JSON, or damaged"),
        (lambda d: activation(d).update(name="no such") or d, "tensors are none of the model's: no such"),
        (lambda d: activation(d).update(bw=16) or d, "16 bits, the recipe wants uint8"),
        (lambda d: activation(d).update(scale=[1, 1], offset=[0, 0]) or d, "2 scales, the recipe wants per_tensor"),
        (lambda d: [part.pop() for part in parts(d)] and d, "31 scales, the recipe wants 32 (per_channel)"),
        (lambda d: parts(d)[1].__setitem__(3, -127) or d, "offsets beside the middle"),
        (lambda d: d | {"activation_encodings": [], "param_encodings": []}, "no encoding of anything"),
    ],
)
def test_a_file_that_does_not_fit_is_a_clear_error(
    document: dict[str, Any],
    quantize: Command,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    says: str,
) -> None:
    code, told, errors = quantize(change(document), *FULL)
    assert (code, told) == (3, None)
    assert says in errors
    assert "fix: " in errors
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize(
    ("setting", "exit_code", "says"),
    [
        ("weights.granularity=per_tensor", 3, "32 scales, the recipe wants per_tensor"),
        ("weights.granularity={per_group: 16}", 3, "32 scales, the recipe wants per_group(16), which the form lacks"),
        ("weights.granularity={per_output_group: 2}", 3, "scales that differ in a group, the recipe wants per_output"),
        ("activations.symmetric=true", 3, "offsets beside the middle"),
        ("bias_correction=true", 2, "quantize.bias_correction: it needs more than encodings"),
        ("equalise=true", 2, "quantize.equalise"),
        ("activations.smooth=0.5", 2, "one scale a tensor"),
        ("activations.granularity=per_embedding", 2, "wants uint8 per_embedding"),
    ],
)
def test_a_recipe_that_wants_something_else_is_a_clear_error(
    document: dict[str, Any], quantize: Command, setting: str, exit_code: int, says: str
) -> None:
    code, told, errors = quantize(document, *FULL, f"quantize.{setting}")
    assert (code, told) == (exit_code, None)
    assert says in errors
    assert "fix: " in errors


def test_a_scale_too_few_is_told_with_the_granularity_of_the_recipe(
    document: dict[str, Any], quantize: Command
) -> None:
    for part in parts(document):
        part.pop()
    _, _, errors = quantize(document, *FULL, "quantize.weights.granularity={per_output_group: 2}")
    assert "31 scales, the recipe wants 32 (per_output_group(2 in " in errors


def test_groups_of_outputs_come_back(run: Run, command: Command, quantize: Command, tmp_path: Path) -> None:
    settings = ("quantize.weights.granularity={per_output_group: 2}", "quantize.weights.dtype=int4")
    made = run(*settings)
    assert command("encodings", made, "--out", tmp_path / "groups.json")[0] == 0
    code, _, errors = quantize(json.loads((tmp_path / "groups.json").read_bytes()), *settings)
    assert (code, errors) == (0, "")
    before, after = (
        json.loads(path.read_bytes())["weights"]
        for path in (made / "encodings.json", tmp_path / "again.encodings.json")
    )
    assert before == after


def parts(document: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Scales and offsets of the first weight."""
    entry = document["param_encodings"][0]
    return entry["scale"], entry["offset"]


def test_a_table_or_encodings_not_both(project: Callable[..., Project], command: Command, tmp_path: Path) -> None:
    made, missing = project(), tmp_path / "missing.json"
    words = ["quantize", made.out / "float/model.onnx", "--recipe", made.recipe, "--out", tmp_path / "q.onnx"]
    for options in ([], ["--calibration", made.out / "calibration.npz", "--from-encodings", missing]):
        code, _, errors = command(*words, *options)
        assert (code, "--from-encodings" in errors) == (2, True)
    code, _, errors = command(*words, "--from-encodings", missing)
    assert (code, "no such file of encodings" in errors) == (3, True)


def test_no_run_and_a_damaged_one(run: Run, command: Command, tmp_path: Path) -> None:
    made, out = run(), tmp_path / "e.json"
    for name, text, says in (
        ("encodings.json", '{"activations": {}}', "damaged"),
        ("encodings.json", '{"activations": {}, "weights": {}, "bias_corrections": {}}', "do not fit"),
        ("plan.json", "[]", "damaged"),
        ("plan.json", None, "no run directory with plan.json"),
    ):
        (made / name).unlink()
        if text is not None:
            (made / name).write_text(text)
        code, _, errors = command("encodings", made, "--out", out)
        assert (code, says in errors) == (3, True)
    assert not out.exists()
