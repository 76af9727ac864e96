"""What every command shares towards the user: consoles, one JSON document, a progress bar, the common options.

People's text goes to stdout through `stdout()`; logs, progress and errors go to stderr. With `--json` a command
prints `emit_json(value)` and nothing else on stdout.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Command = TypeVar("Command", bound=Callable[..., object])

LOGGER = logging.getLogger("qonnx_pipe")
PATIENCE = 2.0  # seconds of work before a progress bar appears
PIPE_WIDTH = 160  # columns of a table where no terminal limits it


def stdout() -> Console:
    """Console for people's text and tables. Texts from outside go through `markup=False` or `rich.text.Text`."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """Console for everything that is not the result."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def show_error(heading: str, text: str) -> None:
    """Print a failure on stderr; brackets in `text` are text, not markup."""
    console = stderr()
    console.print(heading, style="bold red", end="" if heading.endswith("\n") else ": ", markup=False)
    console.print(text, markup=False)


def emit_json(value: object) -> None:
    """Print one JSON document on stdout; ValueError for NaN and infinity, which JSON does not have."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class Bar:
    """Progress of one piece of work; drawn only on a terminal and only once the work has taken `PATIENCE`."""

    def __init__(self, description: str, total: int, *, drawn: bool) -> None:
        self._description, self._total, self._drawn = description, total, drawn
        self._done, self._start = 0, time.monotonic()
        self._progress: Progress | None = None

    def advance(self, n: int = 1) -> None:
        """Count `n` more units of work as done."""
        self._done += n
        if not self._drawn:
            return
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0], n)
        elif time.monotonic() - self._start >= PATIENCE:
            self._progress = _drawing(self._description, self._total, self._done)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._progress is not None:
            self._progress.stop()


def _drawing(description: str, total: int, done: int) -> Progress:
    from rich.markup import escape
    from rich.progress import Progress

    progress = Progress(console=stderr(), transient=True)
    progress.add_task(escape(description), total=total, completed=done)
    progress.start()
    return progress


@contextmanager
def progress(description: str, total: int) -> Iterator[Bar]:
    """A bar for `total` units of work; call its `advance` as they are done."""
    bar = Bar(description, total, drawn=sys.stderr.isatty() and LOGGER.isEnabledFor(logging.WARNING))
    try:
        yield bar
    finally:
        bar.close()


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at the time, so that a progress bar can step aside."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), file=sys.stderr)


def set_verbosity(steps: int) -> None:
    """Log level of qpipe: -1 errors only, 0 warnings, 1 what is being done, 2 and more every detail and tracebacks."""
    LOGGER.handlers = [_StderrHandler()]
    LOGGER.setLevel(logging.WARNING - 10 * max(-1, min(steps, 2)))


def _count_verbosity(ctx: click.Context, option: click.Parameter, value: int) -> None:
    steps = ctx.meta.get("qonnx_pipe.verbosity", 0) + (value if option.name == "verbose" else -value)
    ctx.meta["qonnx_pipe.verbosity"] = steps
    set_verbosity(steps)


def verbosity_options(command: Command) -> Command:
    """`-q/--quiet` and `-v/--verbose`; they add up with those before the command's name."""
    for name, help_text in (("quiet", "Errors only, no progress bar."), ("verbose", "More log; -vv: tracebacks too.")):
        command = click.option(
            f"-{name[0]}", f"--{name}", count=True, expose_value=False, callback=_count_verbosity, help=help_text
        )(command)
    return command


def json_option(command: Command) -> Command:
    """`--json`, passed as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def out_option(help_text: str, *, required: bool = True) -> Callable[[Command], Command]:
    """`--out PATH`, passed as `out: Path`, or `Path | None` when it is not required."""
    return click.option("--out", type=click.Path(path_type=Path), required=required, help=help_text)


def set_option(command: Command) -> Command:
    """`--set key.path=value`, any number of times, passed as `overrides: tuple[str, ...]`."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe; VALUE is YAML."
    )(command)


def tune_option(command: Command) -> Command:
    """`--tune`, passed as `tune: bool`."""
    what = "Search settings that are faster on the recipe's target: quantize.tune, with its defaults."
    return click.option("--tune", is_flag=True, help=what)(command)


def recipe_argument(command: Command) -> Command:
    """`RECIPE`, a file or the name of a packaged recipe, passed as `recipe: Path`."""
    return click.argument("recipe", callback=_find_recipe)(command)


def _find_recipe(_context: click.Context, _parameter: click.Parameter, value: str) -> Path:
    from qonnx_pipe.recipe.library import find

    return find(value)


def example(*lines: str) -> str:
    """Epilog of a command's help: the lines as they are typed."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
