"""Progress: what a running pipeline tells about its stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qonnx_pipe.core.stages import Stage


@dataclass(frozen=True)
class Progress:
    """What a running pipeline tells: a stage is taken from the store, starts, takes a step, is done, or warns."""

    stage: Stage
    kind: Literal["cached", "start", "step", "done", "warning"]
    text: str = ""
    total: int = 0
    seconds: float = 0.0


Listener = Callable[[Progress], None]
