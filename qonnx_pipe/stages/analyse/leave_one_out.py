"""Leave one out: all quantizers on but those of one role or layer, or only these on, and what that changes.

Bondarenko et al. 2021, table 2: which activations lose the accuracy of a W32A8 model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from qonnx_pipe import tasks
from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import Skipped
from qonnx_pipe.core.statistics import CalibrationTable
from qonnx_pipe.graph.summary import id2label
from qonnx_pipe.stages.analyse import simulation
from qonnx_pipe.stages.analyse.encodings import encode
from qonnx_pipe.stages.analyse.score import Baseline, Score, score
from qonnx_pipe.stages.analyse.simulation import Progress, Variant

By = Literal["role", "layer"]


@dataclass(frozen=True)
class Change:
    """One variant: the role or layer that was left out (or alone on), how many sites it has, and its score."""

    name: str
    sites: int
    score: Score


@dataclass(frozen=True)
class LeaveOneOut:
    """The float model, all quantizers on, and one change at a time, the most telling first.

    `mirror` False: `changes` leave one role or layer in float; the largest gain over `all_on` comes first. True: they
    quantize it alone; the lowest SQNR comes first. `metric` names the accuracy, `float_accuracy` None without labels.
    """

    by: By
    mirror: bool
    with_weights: bool
    examples: int
    metric: str
    float_accuracy: float | None
    all_on: Score
    changes: tuple[Change, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values for `leave-one-out.json`."""
        return {"version": 1, "analysis": "leave-one-out", **asdict(self)}


def leave_one_out(
    model: Path,
    plan: QuantPlan,
    table: CalibrationTable,
    batches: Sequence[Batch],
    *,
    task: str,
    by: By,
    mirror: bool,
    with_weights: bool,
    workdir: Path,
    progress: Progress,
) -> LeaveOneOut:
    """Run every variant of `plan` over the same `batches` of labelled or unlabelled examples.

    `progress` hears each of `runs(…)` runs. Raises DataError without batches or statistics, UsageError for a task that
    cannot be judged, and what simulations raise.
    """
    simulation.require(batches)
    found = tasks.find(task)
    names = id2label(model)
    labels = found.labels(batches, names)

    def judged(rows: FloatArray, *, beside: FloatArray | None = None) -> Score:
        return score(baseline, rows, found.answered(rows, batches, labels, names), beside=beside)

    encodings = encode(plan, table)
    groups = dict(simulation.groups_of(plan, _BY[by]))
    variants = _variants(groups, encodings, mirror=mirror)
    board = simulation.build(model, plan, workdir / "switches.onnx", with_weights=with_weights)
    exact, everything, *rest = simulation.simulate(board, variants, batches, found, progress)
    baseline = Baseline(exact, found.answered(exact, batches, labels, names), labels, found.measure)
    beside = None if mirror else everything
    changes = [
        Change(name, len(groups[name]), judged(rows, beside=beside)) for name, rows in zip(groups, rest, strict=True)
    ]
    changes.sort(key=lambda change: change.score.sqnr_db if mirror else -change.score.sqnr_db)
    return LeaveOneOut(
        by,
        mirror,
        with_weights,
        len(baseline.answers),
        found.measure.name,
        baseline.accuracy,
        judged(everything),
        tuple(changes),
        simulation.unlike(plan),
    )


def runs(plan: QuantPlan, by: By, batches: int) -> int:
    """How many runs of the model `leave_one_out` makes over so many batches."""
    return (2 + len(dict(simulation.groups_of(plan, _BY[by])))) * batches


def _variants(
    groups: Mapping[str, Sequence[PlanEntry]], encodings: Mapping[str, Encoding], *, mirror: bool
) -> list[Variant]:
    """Float, everything, and one a group."""
    own = {name: {entry.site.id for entry in entries} for name, entries in groups.items()}
    every = set(encodings)
    ons = (sites if mirror else every - sites for sites in own.values())
    changes = [Variant(name, on, encodings) for name, on in zip(own, ons, strict=True)]
    return [Variant("float", (), encodings), Variant("all quantizers", every, encodings), *changes]


def _role(entry: PlanEntry) -> str:
    return entry.site.role.value


def _layer(entry: PlanEntry) -> str:
    """The layer's number, or what stands before and behind the layers."""
    site = entry.site
    if site.layer is not None:
        return f"layer {site.layer}"
    return "embeddings" if site.role.value.startswith("embedding") else "head"


_BY = {"role": _role, "layer": _layer}
