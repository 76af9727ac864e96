"""The `qpipe` command line: a file a command, imported when called; every failure leaves here with its exit code."""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from qonnx_pipe import __version__
from qonnx_pipe.cli import output
from qonnx_pipe.errors import Interrupted, QpipeError, RecipeError, UsageError

COMMANDS = {
    "run": "Run the whole pipeline of a recipe, cached and resumable.",
    "train": "Fine-tune the classifier that a recipe describes.",
    "export": "Export a model to a float ONNX file.",
    "calibrate": "Collect activation statistics of an ONNX model.",
    "quantize": "Quantize an ONNX model with a recipe, and a calibration table or encodings.",
    "validate": "Compare a model with its float reference: accuracy, speed, size, kernels.",
    "plan": "Show every site, its spec and the rule that chose it; change nothing.",
    "analyse": "See the outliers of a model, and which quantizers cost its accuracy.",
    "bench": "Time several models side by side, on one provider or several.",
    "compile": "Write a model as a provider compiles it, so that it opens at once.",
    "inspect": "Show what an ONNX file holds: operators, bits per layer, size, kernels.",
    "providers": "List the execution providers of this machine.",
    "environment": "Make an interpreter of its own for a provider, for --python.",
    "recipes": "List the recipes that come with qpipe.",
    "check": "Check a recipe: all mistakes at once, with file and line.",
    "schema": "Print the JSON Schema of recipes.",
    "encodings": "Write the encodings of a run in the form of AIMET and QAIRT.",
    "report": "Write one self-contained HTML page about a run, or one that compares several.",
}
"""Command → its one-line help; command `x` is `qonnx_pipe.cli.x.command`."""

BROKEN_PIPE = 128 + 13  # what a shell reports for a process that SIGPIPE ended


class LazyGroup(click.Group):
    """Commands by name, so that `qpipe --help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's object, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"qonnx_pipe.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one-line helps, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for an unknown name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            fix = f"did you mean `qpipe {close[0]}`?" if close else "`qpipe --help` lists the commands"
            raise UsageError(f"there is no command {name!r}", fix=fix)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=output.example("qpipe run recipes/quickstart.yaml"),
)
@click.version_option(__version__, prog_name="qpipe")
@output.verbosity_options
def qpipe() -> None:
    """Turn Hugging Face transformers into small, fast, proven int8 ONNX files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (the process's own when `arguments` is None) and return its exit code; never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with qpipe.make_context("qpipe", words) as context:  # not `qpipe.main`: it turns a closed pipe into exit code 1
            qpipe.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's last flush stays silent
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return _show(Interrupted("interrupted; what is done is kept", fix="resume with the same command"))
    except Exception as failure:
        known = _known(failure)
        return _show(known) if known else _show_internal(failure, words)


def _known(failure: Exception) -> QpipeError | None:
    """The failure as one of ours: a full disk and a refused path can come from anywhere."""
    if isinstance(failure, QpipeError):
        return failure
    if isinstance(failure, OSError):
        where = str(failure.filename or "")
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space and resume with the same command"
            return Interrupted("the disk is full", where=where, fix=fix)
        if failure.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"not allowed: {os.strerror(failure.errno)}"
            return UsageError(what, where=where, fix="name a path that you may use")
    return None


def _show(failure: QpipeError) -> int:
    heading = "error"
    if isinstance(failure, RecipeError):
        count = len(failure.problems)
        heading = f"error: {count} mistake{'s' if count != 1 else ''} in the recipe\n"
    output.show_error(heading, str(failure))
    return failure.exit_code


def _show_internal(failure: Exception, words: Sequence[str]) -> int:
    """Exit code 70: the traceback goes to a file, what to report to the terminal."""
    import platform
    import shlex
    import tempfile
    import traceback

    trace = "".join(traceback.format_exception(failure))
    command = shlex.join(["qpipe", *words])
    facts = f"qpipe {__version__}, Python {platform.python_version()}, {platform.platform()}\ncommand: {command}\n"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="qpipe-", suffix=".log", encoding="utf-8", delete=False) as log:
            log.write(f"{facts}\n{trace}")
        place = log.name
    except OSError as reason:
        place = f"(no log could be written: {reason})"
    output.show_error(
        "internal error", f"{type(failure).__name__}: {failure}\n{facts}log: {place}\n  fix: report this with the log"
    )
    if output.LOGGER.isEnabledFor(logging.DEBUG):
        sys.stderr.write(trace)
    return 70
