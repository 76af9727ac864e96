"""Executed: the model run with one quantized matrix at a time, in one session, and what that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from qonnx_pipe.core import targets
from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.sensitivity import Change
from qonnx_pipe.core.site import Site
from qonnx_pipe.core.targets import IGNORED, Targets
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.graph.overridable import Overridable, make_overridable
from qonnx_pipe.runtime.observe import observe
from qonnx_pipe.stages.analyse.quantized import Weights
from qonnx_pipe.stages.analyse.score import bounded_sqnr
from qonnx_pipe.stages.analyse.simulation import Progress
from qonnx_pipe.tasks import IdToLabel, Task

Outputs = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Baseline:
    """The float model on every batch: its outputs, and the classes that its scores should have."""

    board: Overridable
    batches: Sequence[Batch]
    outputs: Sequence[Outputs]
    targets: Sequence[Targets]
    from_data: bool
    task: Task

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy, nats; None without class scores."""
        return None if not self.rows else self._loss(self.outputs)

    @property
    def rows(self) -> int:
        """How many rows of class scores count."""
        return sum(map(targets.rows, self.targets))

    def change(self, outputs: Sequence[Outputs]) -> Change:
        """What other outputs on the same batches are worth."""
        scored = [
            np.concatenate([self.task.scored(one, batch) for one, batch in zip(found, self.batches, strict=True)])
            for found in (self.outputs, outputs)
        ]
        sqnr = bounded_sqnr(*scored)
        if not self.rows:
            return Change(10.0 ** (-sqnr / 10.0), None, sqnr)
        pairs = zip(self.outputs, outputs, self.targets, strict=True)
        divergence = sum(targets.divergence(exact, other, wanted) for exact, other, wanted in pairs) / self.rows
        loss = self.loss
        assert loss is not None
        return Change(divergence, self._loss(outputs) - loss, sqnr)

    def _loss(self, outputs: Sequence[Outputs]) -> float:
        return sum(targets.loss(one, wanted) for one, wanted in zip(outputs, self.targets, strict=True)) / self.rows


def baseline(
    model: Path, sites: Sequence[Site], batches: Sequence[Batch], *, task: Task, names: IdToLabel, target: Path
) -> Baseline:
    """Run the float model, made overridable at `target`.

    Classes are the data's labels where every example has one and the model scores whole examples; else the model's own
    predictions. Raises DataError for labels that the model does not know, and what sessions raise.
    """
    board = make_overridable(model, sites, target)
    outputs = list(_finite(observe(board.path, batches), "the float model"))
    labels = task.labels(batches, names)
    whole = task.form == "class" and all(
        values.ndim == 2 and len(values) == len(batch)
        for found, batch in zip(outputs, batches, strict=True)
        for name, values in found.items()
        if name in targets.class_outputs(found)
    )
    ids = {name: int(index) for index, name in names.items()}
    from_data = whole and bool(names) and None not in labels
    wanted, at = list[Targets](), 0
    for batch, found in zip(batches, outputs, strict=True):
        own = [ids[str(label)] for label in labels[at : at + len(batch)]] if from_data else None
        wanted.append({name: _classes(found[name], own, batch) for name in targets.class_outputs(found)})
        at += len(batch)
    return Baseline(board, batches, outputs, wanted, from_data, task)


def measured(base: Baseline, weights: Weights, progress: Progress) -> dict[tuple[str, int], Change]:
    """For each matrix and width the model with that matrix alone quantized, activations in float."""
    names, done = list[tuple[str, int]](), dict[tuple[str, int], Change]()

    def feeds() -> Iterator[Batch]:
        for site, bits, values in weights.variants():
            names.append((site.id, bits))
            yield from _with(base, base.board.inputs({site: values}))

    outputs = observe(base.board.path, feeds())
    while found := list(islice(outputs, len(base.batches))):
        name = names[len(done)]
        done[name] = base.change(list(_finite(found, name[0])))
        progress(1)
    return done


def together(base: Baseline, weights: Weights, bits: Mapping[str, int]) -> Change:
    """The model with every matrix quantized to its `bits` at once, activations in float."""
    values = {site: weights.encoded(site, weights.specs[site][bits[site.id]])[1] for site in weights.specs}
    outputs = observe(base.board.path, _with(base, base.board.inputs(values)))
    return base.change(list(_finite(outputs, "all matrices")))


def _with(base: Baseline, inputs: Mapping[str, FloatArray]) -> Iterator[Batch]:
    return (replace(batch, inputs={**batch.inputs, **inputs}) for batch in base.batches)


def _finite(outputs: Iterable[Outputs], what: str) -> Iterator[Outputs]:
    for found in outputs:
        if not all(np.all(np.isfinite(values)) for values in found.values()):
            raise NumericsError("an output holds NaN or infinity", where=what, fix="check the checkpoint's weights")
        yield found


def _classes(scores: Array, own: Sequence[int] | None, batch: Batch) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The class of each row of scores; padded tokens are IGNORED."""
    if own is not None:
        return np.asarray(own, np.int64)
    found = np.asarray(scores.argmax(axis=-1), np.int64)
    mask = batch.inputs.get("attention_mask")
    return np.where(mask.astype(bool), found, IGNORED) if mask is not None and mask.shape == found.shape else found
