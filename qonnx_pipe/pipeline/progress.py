"""Stages in their order, and what a running pipeline tells about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["export", "plan", "calibrate", "quantize", "validate", "report"]
STAGES: tuple[Stage, ...] = ("export", "plan", "calibrate", "quantize", "validate", "report")
"""The stages, in order."""


@dataclass(frozen=True)
class Progress:
    """What a running pipeline tells: a stage is taken from the store, starts, takes a step, or is done."""

    stage: Stage
    kind: Literal["cached", "start", "step", "done"]
    text: str = ""
    total: int = 0
    seconds: float = 0.0


Listener = Callable[[Progress], None]
