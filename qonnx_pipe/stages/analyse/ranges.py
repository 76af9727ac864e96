"""Ranges: for each role the range estimator that loses least, tried one role after the other on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from qonnx_pipe import tasks
from qonnx_pipe.core.encoding import Encoding
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.granularity import PerTensor
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import Role, Skipped
from qonnx_pipe.core.spec import RangeMethod
from qonnx_pipe.core.statistics import CalibrationTable, Request, Requests
from qonnx_pipe.observers import OBSERVERS
from qonnx_pipe.observers.orders import shared_orders
from qonnx_pipe.stages.analyse import simulation
from qonnx_pipe.stages.analyse.encodings import encode, encode_one
from qonnx_pipe.stages.analyse.score import bounded_sqnr
from qonnx_pipe.stages.analyse.simulation import Progress, Variant

Method = RangeMethod | Literal["mixed"]
"""An estimator, or that a role's sites do not have one and the same."""

SAMPLES = 1024
"""Tokens, or pooled rows, that estimators on whole samples get."""


@dataclass(frozen=True)
class Candidate:
    """One estimator for one role: SQNR of the outputs in dB, everything else unchanged."""

    method: Method
    sqnr_db: float


@dataclass(frozen=True)
class RoleRanges:
    """One role: what the recipe says ("mixed" where its sites differ), what is best, and all that was tried."""

    role: str
    sites: int
    recipe: Method
    best: Method
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class RangeChoices:
    """The choices in the order in which they were made; SQNR before the first and after the last."""

    roles: tuple[RoleRanges, ...]
    before_db: float
    after_db: float
    examples: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def rules(self) -> str:
        """What to write into a recipe: YAML, a rule for each estimator that replaces another; "" for none."""
        chosen: dict[str, list[str]] = {}
        for choice in self.roles:
            if choice.best != choice.recipe:
                chosen.setdefault(choice.best, []).append(choice.role)
        rules = [
            f"    - match: {{role: [{', '.join(roles)}]}}\n      activations: {{range: {method}}}"
            for method, roles in chosen.items()
        ]
        return "\n".join(["quantize:", "  rules:", *rules]) if rules else ""

    def to_json(self) -> dict[str, object]:
        """Plain values for `ranges.json`."""
        return {"version": 1, "analysis": "ranges", **asdict(self), "rules": self.rules}


def requests(plan: QuantPlan) -> Requests:
    """Everything that any estimator reads, for every activation that `plan` quantizes."""
    return Requests(
        tuple(
            Request(
                entry.site.id,
                running=True,
                histogram="tensor" if isinstance(entry.spec.granularity, PerTensor) else "embedding",
                samples=SAMPLES if entry.site.role is Role.HEAD else 0,
            )
            for entry in plan.quantized
            if entry.spec is not None and not entry.site.is_weight
        )
    )


def runs(plan: QuantPlan, batches: int) -> int:
    """How many runs of the model `choose_ranges` makes at most."""
    return (2 + len(_roles(plan)) * len(OBSERVERS)) * batches


def choose_ranges(
    model: Path,
    plan: QuantPlan,
    table: CalibrationTable,
    batches: Sequence[Batch],
    *,
    task: str,
    with_weights: bool,
    workdir: Path,
    progress: Progress,
) -> RangeChoices:
    """One pass of coordinate descent over the roles, in the order of the data flow; the best so far is kept.

    An estimator that a role's statistics do not allow is no candidate; the recipe's own wins a tie. `table` holds what
    `requests` asks for. Raises as `leave_one_out` does.
    """
    simulation.require(batches)
    found = tasks.find(task)
    encodings = encode(plan, table)
    board = simulation.build(model, plan, workdir / "switches.onnx", with_weights=with_weights)
    every, orders = set(encodings), shared_orders(plan, table)
    first = [Variant("float", (), encodings), Variant("recipe", every, encodings)]
    exact, rows = simulation.simulate(board, first, batches, found, progress)
    before = best = bounded_sqnr(exact, rows)
    choices = []
    for role, entries in _roles(plan).items():
        tried = _candidates(entries, table, orders)
        variants = [Variant(f"{role} {method}", every, encodings | own) for method, own in tried.items()]
        seen = simulation.simulate(board, variants, batches, found, progress)
        scores = dict(zip(tried, (bounded_sqnr(exact, rows) for rows in seen), strict=True))
        choice = _choice(role, entries, scores, best)
        choices.append(choice)
        if choice.best in tried and choice.best != choice.recipe:
            encodings |= tried[choice.best]
            best = max(candidate.sqnr_db for candidate in choice.candidates)
    return RangeChoices(tuple(choices), before, best, sum(map(len, batches)), simulation.unlike(plan))


def _roles(plan: QuantPlan) -> dict[str, tuple[PlanEntry, ...]]:
    return dict(simulation.groups_of(plan, lambda entry: entry.site.role.value))


def _candidates(
    entries: Sequence[PlanEntry], table: CalibrationTable, orders: Mapping[str, Sequence[int]]
) -> dict[Method, dict[str, Encoding]]:
    """The role's encodings under every estimator that can make them all."""
    found: dict[Method, dict[str, Encoding]] = {}
    for method in OBSERVERS:
        try:
            found[method] = {
                entry.site.id: encode_one(entry, replace(entry.spec, range=method), table, orders)
                for entry in entries
                if entry.spec is not None
            }
        except ValueError:  # a statistic or a granularity that this estimator does not have
            continue
    return found


def _choice(role: str, entries: Sequence[PlanEntry], scores: Mapping[Method, float], least: float) -> RoleRanges:
    """The best estimator by its SQNR, or the recipe's where none is better than `least` dB."""
    methods = {entry.spec.range for entry in entries if entry.spec is not None}
    recipe: Method = methods.pop() if len(methods) == 1 else "mixed"
    top = max(scores, key=lambda method: scores[method], default=recipe)
    best = top if scores.get(top, least) > least else recipe
    candidates = tuple(Candidate(method, sqnr) for method, sqnr in scores.items())
    return RoleRanges(role, len(entries), recipe, best, candidates)
