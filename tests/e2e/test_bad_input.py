"""Bad input through the command line: one clear message, its exit code, no traceback, nothing already made lost."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qonnx_pipe.cli import main
from tests.e2e.tiny import RECIPE, TEXTS, write_csv

Run = Callable[..., int]


@pytest.fixture(scope="module")
def made(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, texts, a recipe, and a finished run of it in `run`; read only."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(checkpoint("distilbert", "text-classification"), folder / "checkpoint")
    write_csv(folder / "texts.csv", TEXTS)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QPIPE_CACHE", str(folder / "cache"))
        assert main(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "-q"]) == 0
    return folder


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*settings, out=…)`: `qpipe run` of the recipe with the cache of the finished run."""
    monkeypatch.setenv("QPIPE_CACHE", str(made / "cache"))

    def command(*settings: str, out: Path) -> int:
        changes = [part for setting in settings for part in ("--set", setting)]
        return main(["run", str(made / "recipe.yaml"), "--out", str(out), *changes])

    return command


def message(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr behind "error: "; a traceback or an internal error fails the test."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "internal error" not in text
    assert text.count("error: ") == 1
    return text.split("error: ", 1)[1]


def bad_onnx(kind: str, good: Path, folder: Path) -> Path:
    path = folder / f"{kind}.onnx"
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:-2000])
    elif kind == "text":
        path.write_text("no model at all")
    elif kind == "nan":
        model = onnx.load(good)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        array = numpy_helper.to_array(weight).copy()
        array.flat[3] = np.nan
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(model, path)
    elif kind == "no-site":
        weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
        node = helper.make_node("MatMul", ["input_ids", "w"], ["y"])
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in ("input_ids", "y")]
        graph = helper.make_graph([node], "mlp", ports[:1], ports[1:], [weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


@pytest.mark.export
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such ONNX file"),
        ("truncated", "not a readable ONNX model"),
        ("text", "not a readable ONNX model"),
        ("nan", "holds NaN or infinity"),
        ("no-site", "no recognised site"),
    ],
)
def test_bad_model(kind: str, says: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bad_onnx(kind, made / "run/float/model.onnx", tmp_path)
    code = main(["calibrate", str(model), "--data", str(made / "texts.csv"), "--out", str(tmp_path / "t.npz")])
    assert code == 3
    text = message(capsys)
    assert says in text
    assert f"{kind}.onnx" in text
    assert "fix: " in text
    assert not (tmp_path / "t.npz").exists()


@pytest.mark.export
def test_a_quantized_model_is_not_quantized_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(made / "texts.csv"), "--tokenizer", str(made / "run/float/tokenizer.json")]
    assert main(["calibrate", str(made / "run/model.onnx"), *arguments, "--out", str(tmp_path / "t.npz")]) == 3
    assert "already quantized" in message(capsys)


@pytest.mark.export
def test_tuning_asks_for_texts_and_their_tokenizer(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--recipe", str(made / "recipe.yaml"), "--out", str(tmp_path / "q.onnx"), "--tune"]
    given += ["--calibration", str(made / "run/calibration.npz")]
    alone = shutil.copy(made / "run/float/model.onnx", tmp_path / "alone.onnx")
    assert main(["quantize", str(alone), *given]) == 3
    assert "tokenizer.json" in message(capsys)
    text_gone = ["--set", f"data.calibration.source={tmp_path / 'gone.csv'}"]
    assert main(["quantize", str(made / "run/float/model.onnx"), *given, *text_gone]) == 3
    assert "gone.csv" in message(capsys)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.export
def test_table_of_another_model_and_no_table(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(made / "run/float/model.onnx")
    model.doc_string = "another"
    onnx.save(model, tmp_path / "other.onnx")
    given = ["--recipe", str(made / "recipe.yaml"), "--out", str(tmp_path / "q.onnx")]
    table = ["--calibration", str(made / "run/calibration.npz")]
    assert main(["quantize", str(tmp_path / "other.onnx"), *given, *table]) == 3
    assert "made for another model" in message(capsys)
    table = ["--calibration", str(made / "texts.csv")]
    assert main(["quantize", str(made / "run/float/model.onnx"), *given, *table]) == 3
    assert "not a calibration table" in message(capsys)
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.export
@pytest.mark.parametrize(
    "bad",
    [
        ([("good film", "positive"), (" ", "negative")], "data.evaluation.source", "bad.csv:3: empty text"),
        ([], "data.calibration.source", "the data set is empty"),
        ([("good film", "angry"), ("bad", "negative")], "data.evaluation.source", "'angry'"),
    ],
)
def test_bad_data(
    bad: tuple[list[tuple[str, str]], str, str], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, setting, says = bad
    write_csv(tmp_path / "bad.csv", rows)
    gate = "validate.gates.accuracy_drop=0.5"  # only with a gate on it must labels be right
    assert run(f"{setting}={tmp_path / 'bad.csv'}", gate, out=tmp_path / "out") == 3
    assert says in message(capsys)
    # unreadable data are told before any work; with labels that the head does not have, what was made before stays
    assert (tmp_path / "out/float/model.onnx").is_file() == (says == "'angry'")


@pytest.mark.export
def test_no_calibration_samples(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "one.csv", TEXTS[:1])
    settings = (f"data.calibration.source={tmp_path / 'one.csv'}", "data.calibration.split=validation")
    if run(*settings, out=tmp_path / "a") == 3:
        assert "no example" in message(capsys) or "empty" in message(capsys)
    else:  # the one text fell into this split: then the others have none
        capsys.readouterr()
        assert run(settings[0], "data.calibration.split=test", out=tmp_path / "b") == 3
        message(capsys)


@pytest.mark.export
def test_unknown_provider_is_told_before_any_work(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate.providers=[tpu]", out=tmp_path / "out") == 4
    assert "unknown execution provider 'tpu'" in message(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.export
def test_output_that_cannot_be_written(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run(out=tmp_path / "file") == 2
    assert "cannot be written" in message(capsys)
    assert run(out=Path("/proc/qpipe")) == 2
    assert "/proc/qpipe" in message(capsys)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.export
def test_full_disk_is_resumable(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full while the quantized model is written; with room again the same command ends well."""
    real, full = Path.open, True

    def refusing(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        if full and "w" in mode and self.name == "encodings.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    change = "quantize.activations.range=running_minmax"
    assert run(change, out=tmp_path / "out") == 5
    assert "the disk is full" in message(capsys)
    assert not list((tmp_path / "out").glob("**/.writing-*"))
    full = False
    assert run(change, out=tmp_path / "out") == 0
    assert (tmp_path / "out/model.onnx").is_file()


@pytest.mark.export
def test_checkpoints_that_are_refused(made: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(made / "checkpoint", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert run(f"model.source={pickled}", out=tmp_path / "out") == 3
    assert "pickle" in message(capsys)
    foreign = tmp_path / "foreign"
    shutil.copytree(made / "checkpoint", foreign)
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    assert run(f"model.source={foreign}", out=tmp_path / "out") == 3
    assert "unsupported architecture 'mamba'" in message(capsys)
    assert run(f"model.source={tmp_path / 'nowhere'}", out=tmp_path / "out") == 3
    assert "nowhere" in message(capsys)


@pytest.mark.export
def test_weights_with_nan(made: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(made / "checkpoint", broken)
    weights = load_file(broken / "model.safetensors")
    name = next(key for key in weights if key.endswith("ffn.lin1.weight"))
    weights[name][0, 0] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert run(f"model.source={broken}", out=tmp_path / "out") == 3
    text = message(capsys)
    assert "NaN" in text
    assert name.removeprefix("distilbert.") in text


def test_a_recipe_with_five_errors_tells_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "version: 1\n"
        "name: tiny\n"
        "model: {source: here, task: text-classfication}\n"
        "data:\n"
        "  calibration: {source: a.csv, samples: -1}\n"
        "  evaluation: {source: a.csv, sampels: 3}\n"
        "quantize:\n"
        "  weights: {dtype: no}\n"
        "  rules:\n"
        "    - match: {role: ffn.inpt}\n"
        "      float: true\n"
    )
    assert main(["check", str(path)]) == 2
    captured = capsys.readouterr()
    text = captured.out + captured.err
    for line, key in (
        (3, "model.task"),
        (5, "data.calibration.samples"),
        (6, "data.evaluation.sampels"),
        (8, "quantize.weights.dtype"),
        (10, "quantize.rules[0].match.role"),
    ):
        assert f"bad.yaml:{line}: {key}" in text
    assert "did you mean ffn.input" in text


@pytest.mark.export
def test_a_rule_that_matches_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quantize.rules=[{match: {layer: 7}, float: true}]", out=tmp_path / "out") == 2
    assert "layer" in message(capsys)
