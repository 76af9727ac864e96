"""Shapes on the command line: "8x128" is batch 8, sequence 128."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

DEFAULT = ("1x128", "8x128")


def _parse(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    shapes = []
    for text in texts:
        found = re.fullmatch(r"([1-9]\d*)[x×,]([1-9]\d*)", text)
        if found is None:
            raise click.BadParameter(f"{text!r} is no shape: write it as 8x128 (batch x sequence)")
        shapes.append((int(found[1]), int(found[2])))
    return tuple(shapes)


def shape_option(command: Command) -> Command:
    """`--shape BATCHxSEQUENCE`, any number of times, passed as `shapes: tuple[tuple[int, int], ...]`."""
    return click.option(
        "--shape",
        "shapes",
        metavar="BATCHxSEQUENCE",
        multiple=True,
        default=DEFAULT,
        show_default=True,
        callback=_parse,
        help="Shape to time.",
    )(command)
