"""Q-BERT: the table of Shen et al. 2019 on executed files: accuracy beside the bytes that really lie on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe import pipeline
from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.core.site import EMBEDDING_TABLES
from qonnx_pipe.core.verdict import Result, SizeParts
from qonnx_pipe.graph import io
from qonnx_pipe.graph.size import size_parts
from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.library import find
from tests.bench.outcome import Bound, Outcome, at_least, at_most, write_table
from tests.bench.ptq import CASES, Case

FOLDER = Path("runs/bench/qbert")
COLUMNS = (
    "model and task", "method", "W", "E", "paper, SST-2", "accuracy", "drop", "95 %", "SQNR dB",
    "MB", "without embeddings", "×", "encoder ×", "int8",
)  # fmt: skip
UNTRAINED = ("quantize.qat=null", "quantize.weights.rounding=nearest", "quantize.weights.range=minmax")
"""The paper's ranges, the extremes, and nothing that makes up for them."""


@dataclass(frozen=True)
class Variant:
    """One line of the table for each case: a packaged recipe, changed by `--set`; bits of weights and tables.

    `paper`: the accuracy of Shen et al. 2019 on SST-2, of 93.00 in float.
    """

    name: str
    recipe: str
    weights: str
    tables: str
    changes: tuple[str, ...] = ()
    paper: str = "–"


def _grouped(granularity: str) -> tuple[str, ...]:
    return (f"quantize.weights.granularity={granularity}",)


TRAINED = (
    Variant("Q-BERT", "qbert-w8e8a8", "8", "8", paper="92.88"),
    Variant("direct", "direct-w4e8a8", "4", "8", paper="85.67"),
    Variant("Q-BERT", "qbert-w4e8a8", "4", "8", paper="92.66"),
    Variant("Q-BERT MP", "qbert-mp24", "2/4", "8", paper="92.55"),
    Variant("direct", "direct-w2e8a8", "2", "8", paper="80.62"),
    Variant("Q-BERT", "qbert-w2e8a8", "2", "8", paper="84.63"),
    Variant("Q-BERT MP", "qbert-mp23", "2/3", "4/8", paper="92.08"),
    Variant("Q-BERT", "qbert-w3e8a8", "3", "8"),
    Variant("GPTQ, untrained", "qbert-w4e4a8", "4", "4"),
)
GROUPS = {"1": "per_tensor", "12": "{per_output_group: 12}", "128": "{per_output_group: 128}", "each": "per_channel"}
ABLATION = tuple(
    Variant(f"{groups} groups, untrained", "qbert-w4e8a8", "4", "8", (*UNTRAINED, *_grouped(granularity)))
    for groups, granularity in GROUPS.items()
)
VARIANTS = (*ABLATION, *TRAINED)


@dataclass(frozen=True)
class Judged:
    """What a verdict says of the quantized model, the bytes of both files by part, and those of its tables.

    `tables`: bytes of embedding tables with their scales.
    """

    result: Result
    before: SizeParts
    after: SizeParts
    tables: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.before.total / self.after.total

    @property
    def encoder_ratio(self) -> float:
        """How many times smaller all but the tables is: the weights' scales, biases, norms and the graph count."""
        return (self.before.total - self.before.embeddings) / (self.after.total - self.tables)

    @property
    def drop(self) -> float:
        """Points of accuracy that are lost."""
        assert self.result.accuracy_drop is not None
        return 100 * self.result.accuracy_drop.value

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio of the logits."""
        assert self.result.fidelity is not None
        return self.result.fidelity.sqnr_db


def qbert(_rounds: int) -> Outcome:
    """All variants on all cases; the table so far is written as Markdown and CSV after each line."""
    rows: list[tuple[str, ...]] = []
    bounds: list[Bound] = []
    for case in CASES:
        found = {}
        for variant in VARIANTS:
            found[variant] = judged = _judged(case, variant)
            rows.append(_row(case, variant, judged))
            write_table(FOLDER, COLUMNS, rows)
        bounds += _bounds(case, found)
    return Outcome("Q-BERT, executed", COLUMNS, rows, bounds)


def _judged(case: Case, variant: Variant) -> Judged:
    changes = (*case.changes, *case.texts, *variant.changes, "validate.latency.shapes=[]")
    recipe = load(find(variant.recipe), changes)
    folder = FOLDER / "-".join((case.name, variant.recipe, variant.name)).replace(", ", "-").replace(" ", "-")
    verdict = pipeline.run(recipe, folder, lambda _: None, last="validate").verdict
    assert verdict is not None
    result = next(one for one in verdict.results if one.model == "quantized")
    return Judged(result, size_parts(folder / "float" / "model.onnx"), verdict.size.parts, _tables(folder))


def _tables(folder: Path) -> int:
    """Bytes of a run's tables: what the lowerings make of one begins with its name."""
    plan = QuantPlan.from_json(json.loads((folder / "plan.json").read_bytes()))
    names = tuple(entry.site.tensor for entry in plan.entries if entry.site.role in EMBEDDING_TABLES)
    held = io.load(folder / "model.onnx").graph.initializers.items()
    return sum(value.const_value.nbytes for name, value in held if value.const_value and name.startswith(names))


def _row(case: Case, variant: Variant, judged: Judged) -> tuple[str, ...]:
    result = judged.result
    assert result.accuracy is not None
    assert result.accuracy_drop is not None
    assert result.kernels is not None
    low, high = (100 * end for end in result.accuracy_drop.interval or (0.0, 0.0))
    return (
        *(case.name, variant.name, variant.weights, variant.tables, variant.paper),
        *(f"{result.accuracy.value:.1%}", f"{judged.drop:.1f}", f"{low:.1f} to {high:.1f}", f"{judged.sqnr_db:.1f}"),
        *(f"{judged.after.total / 1e6:.1f}", f"{(judged.after.total - judged.tables) / 1e6:.1f}"),
        *(f"{judged.ratio:.1f}", f"{judged.encoder_ratio:.1f}"),
        f"{result.kernels.integer} of {result.kernels.total}",
    )


def _bounds(case: Case, found: Mapping[Variant, Judged]) -> list[Bound]:
    """The paper's ordering, its sizes on disk, and what they may cost."""
    by_recipe = {variant.recipe: judged for variant, judged in found.items() if variant in TRAINED}
    groups = [found[variant] for variant in ABLATION]
    mixed, untrained = by_recipe["qbert-mp23"], by_recipe["qbert-w4e4a8"]
    return [
        at_least(f"{case.name}: 12 groups over 1", groups[1].sqnr_db - groups[0].sqnr_db, 0, " dB"),
        at_least(f"{case.name}: 128 groups over 12", groups[2].sqnr_db - groups[1].sqnr_db, 0, " dB"),
        *(
            at_least(
                f"{case.name}: grouped over direct, {bits}", _gain(by_recipe, f"direct-{bits}", f"qbert-{bits}"), 0
            )
            for bits in ("w4e8a8", "w2e8a8")
        ),
        at_least(f"{case.name}: 2/3 bits over 2", _gain(by_recipe, "qbert-w2e8a8", "qbert-mp23"), 0, " points"),
        at_least(f"{case.name}: 2/3 bits, encoder", mixed.encoder_ratio, 12, "×"),
        at_least(f"{case.name}: 2/3 bits, file", mixed.ratio, 8 if "MiniLM" in case.name else 9, "×"),
        at_most(f"{case.name}: 2/3 bits, drop", mixed.drop, 2.3, " points"),
        at_least(f"{case.name}: GPTQ, file", untrained.ratio, 7, "×"),
        at_most(f"{case.name}: GPTQ, drop", untrained.drop, 0.5, " points"),
    ]


def _gain(found: Mapping[str, Judged], worse: str, better: str) -> float:
    """Points of accuracy by which one is better."""
    return found[worse].drop - found[better].drop
