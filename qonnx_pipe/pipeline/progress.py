"""Stages in their order, and what a running pipeline tells about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal[
    "train",
    "export",
    "sensitivity",
    "timing",
    "plan",
    "calibrate",
    "tune",
    "qat",
    "round",
    "quantize",
    "validate",
    "report",
]
STAGES: tuple[Stage, ...] = get_args(Stage)[1:]
"""The stages of a run, in order; `train` comes before them where the model is one that a recipe trains, and
`sensitivity`, `timing`, `tune`, `qat` and `round` are left out where the recipe has no budget, none of time, asks for
no search, trains nothing quantized and learns no rounding (`stages_of`)."""


@dataclass(frozen=True)
class Progress:
    """What a running pipeline tells: a stage is taken from the store, starts, takes a step, is done, or warns."""

    stage: Stage
    kind: Literal["cached", "start", "step", "done", "warning"]
    text: str = ""
    total: int = 0
    seconds: float = 0.0


Listener = Callable[[Progress], None]
