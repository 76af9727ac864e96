"""Tune: settings that make the file faster on its target, found by trying one change after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np

from qonnx_pipe import tasks
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.core.plan import AttentionForm, MatMulForm, Placement, PlanEntry, QuantPlan
from qonnx_pipe.core.tuning import Trial, Tuning
from qonnx_pipe.core.verdict import Interval
from qonnx_pipe.errors import NumericsError, QpipeError
from qonnx_pipe.recipe.quantize import Match, Quantize, Rule, Tune
from qonnx_pipe.recipe.settings import Activations
from qonnx_pipe.runtime.client import LIMITS, Limits
from qonnx_pipe.runtime.clock import speedup
from qonnx_pipe.runtime.providers import ALWAYS_HERE
from qonnx_pipe.runtime.race import Racer, race
from qonnx_pipe.runtime.shapes import from_batches

PLAIN = Activations(lowering="auto", shift=False, smooth=0.0)
"""One range for the tensor, where nothing else was asked for."""

NO_NOISE_DB = 200.0
"""SQNR of equal outputs: JSON has no infinity."""

Make = Callable[[Quantize, Path], QuantPlan]
"""Settings, and where to write the file that they describe → its plan, with every form settled."""

Fidelity = Callable[[Path], float]
"""A file → SQNR of its outputs against float, dB."""

Compare = Callable[[Path, Path], tuple[float, Interval]]
"""Two files → how many times faster the second one is, and the 95 % interval of that."""

Say = Callable[[str], None]
"""Hears what is tried."""


@dataclass(frozen=True)
class Change:
    """Settings to try in place of the best ones; `told`: what of them is new, as a recipe says it."""

    name: str
    settings: Quantize
    told: Mapping[str, object]


@dataclass(frozen=True)
class _Best:
    """The fastest settings so far, with their file and plan."""

    settings: Quantize
    file: Path
    plan: QuantPlan


def tune_stage(
    settings: Quantize, make: Make, fidelity: Fidelity, compare: Compare, workdir: Path, *, say: Say = lambda _: None
) -> tuple[QuantPlan, Tuning]:
    """The plan of the fastest settings found from `settings` on, and all that was tried; files go into `workdir`.

    A greedy search over whole files, one of `changes` after another: a change is kept where its file is faster than the
    best one before beyond noise (the interval of the speed-up lies above 1), and where its SQNR is that of the first
    file or at most `loss_db` less. A change that leaves the plan as it is makes no trial; one whose file cannot be made
    or run is not kept. Raises what `make` and `fidelity` raise for `settings` themselves.
    """
    wish = settings.tune or Tune()
    best = _Best(settings, workdir / "0.onnx", make(settings, workdir / "0.onnx"))
    start_db = fidelity(best.file)
    trials: list[Trial] = []
    tried = {
        _form(settings, settings.chosen_placement, settings.matmul_form).name,
        _attention(settings, settings.attention_form).name,
    }
    while change := _next(best, tried):
        tried.add(change.name)
        say(change.name)
        path = workdir / f"{len(tried)}.onnx"
        trial, plan = _tried(change, best, path, make, _Judge(fidelity, compare, start_db - wish.loss_db))
        trials += [trial] if trial else []
        loser = path
        if trial and trial.kept:
            loser, best = best.file, _Best(change.settings, path, plan)
        loser.unlink(missing_ok=True)
    return best.plan, Tuning(settings.target, wish.shape, wish.rounds, start_db, start_db - wish.loss_db, tuple(trials))


def changes(settings: Quantize, plan: QuantPlan) -> Iterator[Change]:
    """What is worth trying, the greatest first.

    1. Every placement with every form of weight MatMuls that the target has. 2. Attention in its other form, where it
    has two. 3. For each role whose activations are folded, expanded or split: one plain range. 4. The same for each
    expanded site alone.
    """
    yield from (_form(settings, placement, form) for placement, form in product(get_args(Placement), _forms(settings)))
    sites_inside = settings.chosen_placement != "matmul_inputs"  # they keep an attention apart
    if settings.matmul_form == "integer" and not sites_inside:
        yield from (_attention(settings, form) for form in get_args(AttentionForm))
    formed = [entry for entry in plan.quantized if not entry.site.is_weight and _is_formed(entry)]
    for role in dict.fromkeys(entry.site.role for entry in formed):
        yield _plain(settings, f"one range at {role}", Match(role=(role,)), {"role": str(role)})
    for entry in formed:
        if entry.lowering == "expand":
            site = entry.site.id
            yield _plain(settings, f"one range at {site}", Match(node=(site,)), {"node": site})


def _forms(settings: Quantize) -> tuple[MatMulForm, ...]:
    return get_args(MatMulForm) if settings.target == "cpu" else ("qdq",)


def _form(settings: Quantize, placement: Placement, form: MatMulForm) -> Change:
    told = {"placement": placement, "matmul": form}
    return Change(f"{placement}, {form}", settings.model_copy(update=told), told)


def _attention(settings: Quantize, form: AttentionForm) -> Change:
    told = {"attention": form}
    return Change(f"attention {form}", settings.model_copy(update=told), told)


def _is_formed(entry: PlanEntry) -> bool:
    return entry.lowering in ("fold", "expand", "split") or (entry.spec is not None and entry.spec.folds)


def _plain(settings: Quantize, name: str, match: Match, where: Mapping[str, str]) -> Change:
    rules = (*settings.rules, Rule(match=match, activations=PLAIN))
    told = {"rules": [{"match": dict(where), "activations": PLAIN.model_dump(exclude_none=True)}]}
    return Change(name, settings.model_copy(update={"rules": rules}), told)


def _next(best: _Best, tried: Collection[str]) -> Change | None:
    return next((change for change in changes(best.settings, best.plan) if change.name not in tried), None)


@dataclass(frozen=True)
class _Judge:
    """How files are judged, and the least SQNR of one that is kept, dB."""

    fidelity: Fidelity
    compare: Compare
    least_db: float


def _tried(change: Change, best: _Best, path: Path, make: Make, judge: _Judge) -> tuple[Trial | None, QuantPlan]:
    """The trial of one change and its plan; no trial where it changes nothing. A file below the limit is not timed."""
    failed = Trial(change.name, change.told, None, None, None, False, "")
    sqnr = None
    try:
        plan = make(change.settings, path)
        if _same(plan, best.plan):
            return None, best.plan
        sqnr = judge.fidelity(path)
        if sqnr < judge.least_db:
            reason = f"{sqnr:.1f} dB, below the limit of {judge.least_db:.1f} dB"
            return replace(failed, sqnr_db=sqnr, reason=reason), best.plan
        gain, interval = judge.compare(best.file, path)
    except QpipeError as failure:
        return replace(failed, sqnr_db=sqnr, reason=failure.what), best.plan
    reason = "faster" if interval[0] > 1 else "slower" if interval[1] < 1 else "as fast, within noise"
    return Trial(change.name, change.told, gain, interval, sqnr, interval[0] > 1, reason), plan


def _same(one: QuantPlan, other: QuantPlan) -> bool:
    """Whether two plans make the same file."""
    return (one.entries, one.placement, one.attention) == (other.entries, other.placement, other.attention)


class Measured:
    """Files judged by running them on `provider`: outputs of `batches` against `reference`'s, time at `wish.shape`.

    `interpreters`: provider → the Python that its workers run under, as in `stages.validate`.
    """

    def __init__(
        self,
        reference: Path,
        task: str,
        batches: Sequence[Batch],
        provider: str,
        wish: Tune,
        *,
        limits: Limits = LIMITS,
        interpreters: Mapping[str, Path] | None = None,
    ) -> None:
        self._task, self._batches, self._provider, self._wish = tasks.find(task), batches, provider, wish
        self._limits, self._interpreters = limits, dict(interpreters or {})
        self._reference = self._rows(self._racer(reference, ALWAYS_HERE))

    def fidelity(self, model: Path) -> float:
        """SQNR of a file's outputs, dB; NumericsError where they are no numbers."""
        rows = self._rows(self._racer(model, self._provider))
        if not np.isfinite(rows).all():
            raise NumericsError("outputs hold NaN or infinity", where=str(model), fix="look for overflowing scales")
        return min(sqnr_db(self._reference, rows), NO_NOISE_DB)

    def compare(self, before: Path, after: Path) -> tuple[float, Interval]:
        """How many times faster `after` is, in one interleaved race, and the 95 % interval."""
        racers = [self._racer(model, self._provider) for model in (before, after)]
        inputs = from_batches(self._batches, *self._wish.shape)
        first, second = race(racers, inputs, rounds=self._wish.rounds, limits=self._limits)
        return speedup(first.rounds, second.rounds)

    def _racer(self, model: Path, provider: str) -> Racer:
        return Racer(model, provider, self._interpreters.get(provider))

    def _rows(self, racer: Racer) -> FloatArray:
        with racer.worker(limits=self._limits) as worker:
            outputs = worker.predict(batch.inputs for batch in self._batches)
            return np.concatenate([self._task.scored(*pair) for pair in zip(outputs, self._batches, strict=True)])
