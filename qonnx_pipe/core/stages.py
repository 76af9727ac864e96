"""Stages: the names of what a run goes through, in order."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal[
    "train",
    "export",
    "sensitivity",
    "timing",
    "plan",
    "calibrate",
    "tune",
    "round",
    "qat",
    "quantize",
    "validate",
    "report",
]
STAGES: tuple[Stage, ...] = get_args(Stage)[1:]
"""The stages of a run, in order; `train` comes before them where the model is one that a recipe trains, and
`sensitivity`, `timing`, `tune`, `round` and `qat` are left out where the recipe has no budget, none of time, asks for
no search, learns no rounding and trains nothing quantized (`pipeline.stages_of`)."""
