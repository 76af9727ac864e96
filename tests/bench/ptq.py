"""PTQ: every recipe of Bondarenko et al. 2021, and those beyond it, on executed models: fidelity, accuracy, kernels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from qonnx_pipe import data, pipeline, tasks
from qonnx_pipe.core import scores
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.kernels import Kernels, executed
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.summary import summarise
from qonnx_pipe.recipe import Recipe, load
from qonnx_pipe.recipe.library import find
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench.outcome import Bound, Outcome, at_least, at_most, markdown

FOLDER = Path("runs/bench/ptq")
COLUMNS = ("model and task", "recipe", "W", "A", "SQNR dB", "95 %", "agreement", "accuracy", "drop", "95 %", "int8")
DRAWS = 1000
"""Bootstrap draws of an SQNR interval; its ends then move by less than 0.05 dB from seed to seed."""


@dataclass(frozen=True)
class Case:
    """A fine-tuned classifier: the recipe that makes it, and what `--set` says so that any ptq recipe takes it."""

    name: str
    changes: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Variant:
    """One line of the table for each case: a packaged recipe, changed by `--set`.

    `paper`: what Bondarenko et al. 2021 report for it as the GLUE average, of 83.06 in float.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    paper: str = ""


@dataclass(frozen=True, eq=False)
class Found:
    """What one variant did on one case; `interval` of the SQNR, dB."""

    variant: Variant
    sqnr: float
    interval: tuple[float, float]
    agreement: float
    accuracy: float
    drop: float
    drop_interval: tuple[float, float]
    kernels: Kernels


def ptq(_rounds: int) -> Outcome:
    """All variants on all cases; the table is also written as Markdown and CSV."""
    rows, bounds = [], []
    for case in CASES:
        found = {variant.name: _found(case, variant) for variant in VARIANTS}
        rows += [_row(case, one) for one in found.values()]
        _write(rows)
        bounds += _bounds(case, found)
    return Outcome("Post-training quantization, executed", COLUMNS, rows, bounds)
