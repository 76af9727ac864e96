"""The frame around the commands: lazy help, exit codes, one message a failure, JSON alone on stdout."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from qonnx_pipe import __version__, errors
from qonnx_pipe.cli import COMMANDS, main, output, qpipe
from tests.unit.recipe.texts import PLAIN, written

HEAVY = ("torch", "transformers", "optimum", "onnx", "onnx_ir", "onnxruntime", "pydantic", "numpy", "rich")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """A command `check` that raises what it is given."""

    def install(failure: BaseException) -> None:
        @click.command
        @output.verbosity_options
        def command() -> None:
            raise failure

        monkeypatch.setattr("qonnx_pipe.cli.check.command", command)

    return install


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from qonnx_pipe.cli import main; assert main(['--help']) == 0; "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert [name for name in COMMANDS if f"\n  {name} " in done.stdout] == list(COMMANDS)


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "qonnx_pipe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"qpipe, version {__version__}\n"


@pytest.mark.parametrize("name", ["check", "schema", "recipes"])
def test_every_command_has_a_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example:\n    qpipe {name}" in text
    assert "--verbose" in text
    assert "--quiet" in text


def test_an_unknown_command_is_bad_usage_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantise"]) == 2
    assert "did you mean `qpipe quantize`?" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "`qpipe --help`" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["check"], ["check", "--nope"], ["--nope"], []])
def test_bad_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: qpipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (errors.GateFailed("too slow", where="speedup"), 1, "speedup: too slow"),
        (errors.UsageError("[red]no[/red]", fix="[b]"), 2, "[red]no[/red]\n  fix: [b]"),
        (errors.RecipeError([errors.Problem("r:1", "a", "x"), errors.Problem("r:2", "b", "y")]), 2, "2 mistakes"),
        (errors.ModelError("truncated"), 3, "truncated"),
        (errors.DataError("empty"), 3, "empty"),
        (errors.ProviderError("killed"), 4, "killed"),
        (errors.Interrupted("stopped"), 5, "stopped"),
        (KeyboardInterrupt(), 5, "resume with the same command"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/f"), 5, "/d/f: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/f"), 2, "/d/f: not allowed"),
        (OSError(errno.EROFS, "Read-only file system", "/d/f"), 2, "Read-only file system"),
    ],
)
def test_a_failure_is_one_message_and_its_exit_code(
    failing, capsys: pytest.CaptureFixture[str], failure: BaseException, code: int, words: str
) -> None:
    failing(failure)
    assert main(["check"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("flags", [[], ["-v"], ["-vv"]])
def test_an_internal_error_names_a_log_with_the_traceback(
    failing, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(ZeroDivisionError("a planted bug"))
    assert main(["check", *flags]) == 70
    said = capsys.readouterr().err
    (log,) = tmp_path.iterdir()
    assert str(log) in said
    assert ("Traceback" in said) == (flags == ["-vv"])
    for text in (said, log.read_text()):
        assert "ZeroDivisionError: a planted bug" in text
        assert __version__ in text
        assert " ".join(["command: qpipe check", *flags]) in text
    assert "Traceback" in log.read_text()


def test_a_closed_pipe_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "qonnx_pipe", "schema"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


def test_check_prints_one_line_or_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, PLAIN))
    assert main(["check", path]) == 0
    assert "ok (plain: fill-mask of package:p/model)" in capsys.readouterr().out
    assert main(["check", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}
    assert main(["check", path, "--json", "--set", "model.opset=x", "--set", "name=3"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [problem["key"] for problem in found["problems"]] == ["name", "model.opset"]


def test_check_tells_all_mistakes_and_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(written(tmp_path, PLAIN)), "--set", "model.opset=x", "--set", "name=3"]) == 2
    said = capsys.readouterr().err
    assert "2 mistakes" in said
    assert "name:" in said
    assert "model.opset:" in said
    assert main(["check", "no-such-recipe"]) == 2
    assert "there is no such recipe" in capsys.readouterr().err


def test_recipes_are_listed_and_their_names_are_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "quickstart" in {row["name"] for row in rows}
    assert all(row["description"] and Path(row["path"]).is_file() for row in rows)
    assert main(["recipes"]) == 0
    assert "quickstart: " in capsys.readouterr().out
    assert main(["check", "quickstart"]) == 0


def test_schema_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["schema"], "WARNING"),
        (["-q", "schema"], "ERROR"),
        (["schema", "-q"], "ERROR"),
        (["-v", "schema"], "INFO"),
        (["-v", "schema", "-v"], "DEBUG"),
        (["schema", "-vvvv"], "DEBUG"),
        (["-v", "schema", "-q"], "WARNING"),
    ],
)
def test_verbosity_adds_up(arguments: list[str], level: str) -> None:
    import logging

    assert main(arguments) == 0
    assert logging.getLevelName(output.LOGGER.level) == level


def test_progress_draws_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    with output.progress("working", 3) as bar:
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal_after_some_patience(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    output.set_verbosity(0)
    with output.progress("quick [work]", 3) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    with output.progress("long [work]", 3) as bar:
        bar.advance(1)
        bar.advance(2)
    said = capsys.readouterr()
    assert "long [work]" in said.err
    assert said.out == ""


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        output.emit_json({"a": float("nan")})


def test_the_table_of_commands_is_complete() -> None:
    context = click.Context(qpipe)
    assert qpipe.list_commands(context) == list(COMMANDS)
    assert qpipe.get_command(context, "nope") is None
    assert all(text.endswith(".") for text in COMMANDS.values())
