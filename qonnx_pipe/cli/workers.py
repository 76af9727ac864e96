"""Options of commands that start workers: the interpreter of a provider, and what a worker may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])


def _interpreters(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in texts:
        provider, _, path = text.partition("=")
        if not provider or not path:
            raise click.BadParameter(f"{text!r}: write it as PROVIDER=PATH, such as openvino=DIR/bin/python")
        if provider in found:
            raise click.BadParameter(f"{provider} has two interpreters")
        found[provider] = Path(path).expanduser()
    return found


def worker_options(command: Command) -> Command:
    """--python, --time-limit, --memory-limit: `interpreters` by provider, `time_limit` in s, `memory_limit` in MB."""
    for option in (
        click.option(
            "--memory-limit", type=click.IntRange(min=1), metavar="MB", help="Most memory of a worker; Linux only."
        ),
        click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            default=600.0,
            show_default=True,
            metavar="SECONDS",
            help="A worker that answers nothing for so long is killed.",
        ),
        click.option(
            "--python",
            "interpreters",
            multiple=True,
            metavar="PROVIDER=PATH",
            callback=_interpreters,
            help="Python interpreter of that provider's workers; `qpipe environment` makes one.",
        ),
    ):
        command = option(command)
    return command
