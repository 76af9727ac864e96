"""Simulation: many variants of one quantized model, over the same batches, in one session."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.numerics import dequantize
from qonnx_pipe.core.plan import PlanEntry, QuantPlan
from qonnx_pipe.core.site import Skipped
from qonnx_pipe.errors import DataError, ModelError, NumericsError
from qonnx_pipe.graph.switches import Switchboard, add_switches
from qonnx_pipe.observers.weights import encode_weight, quantize_weight
from qonnx_pipe.runtime.observe import observe
from qonnx_pipe.tasks import Task

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Variant:
    """A name, the sites whose quantizers are on, and the encodings of all sites."""

    name: str
    on: Collection[str]
    encodings: Mapping[str, Encoding]


def simulate(
    board: Switchboard, variants: Sequence[Variant], batches: Sequence[Batch], task: Task, progress: Progress
) -> list[FloatArray]:
    """The compared tensor [n, k] of each variant over all batches; of the model's values one batch is held at a time.

    `progress` hears each run. Raises NumericsError where a row is no number, and what sessions raise.
    """
    inputs = [board.inputs(variant.encodings, variant.on) for variant in variants]
    runs = [(number, batch) for batch in batches for number in range(len(variants))]
    feeds = (replace(batch, inputs={**batch.inputs, **inputs[number]}) for number, batch in runs)
    rows: list[list[FloatArray]] = [[] for _ in variants]
    for (number, batch), outputs in zip(runs, observe(board.path, feeds), strict=True):
        rows[number].append(_finite(task.scored(outputs, batch), variants[number]))
        progress(1)
    return [np.concatenate(parts) for parts in rows]


def build(model: Path, plan: QuantPlan, target: Path, *, with_weights: bool) -> Switchboard:
    """The model with a switch at every site of `plan`; `with_weights`: weights as the plan quantizes them too.

    Raises ModelError when the plan quantizes no activation, and what `add_switches` raises.
    """
    board = add_switches(model, plan, target, weights=_rounded if with_weights else None)
    if not board.sites:
        fix = "give the recipe activations of an integer type, or `--set quantize.placement=full`"
        raise ModelError("the plan quantizes no activation", where=str(model), fix=fix)
    return board


def unlike(plan: QuantPlan) -> tuple[Skipped, ...]:
    """What of a plan a simulation leaves out: scales and shifts that move into neighbouring weights."""
    return tuple(
        Skipped(entry.site.id, "simulated without its smoothing: quantized as it stands in the float model")
        for entry in plan.quantized
        if entry.spec is not None and (entry.spec.smooth or entry.spec.shift or entry.spec.form == "fold")
    )


def require(batches: Sequence[Batch]) -> None:
    """DataError where there is nothing to run on."""
    if not batches:
        raise DataError("no examples to analyse", fix="name data that hold some: data.calibration, data.evaluation")


def groups_of(plan: QuantPlan, key: Callable[[PlanEntry], str]) -> Iterator[tuple[str, tuple[PlanEntry, ...]]]:
    """The plan's quantized activations, gathered by `key`, in the order of the data flow."""
    found: dict[str, list[PlanEntry]] = {}
    for entry in plan.quantized:
        if not entry.site.is_weight:
            found.setdefault(key(entry), []).append(entry)
    return ((name, tuple(entries)) for name, entries in found.items())


def _rounded(entry: PlanEntry, weight: npt.NDArray[np.generic]) -> FloatArray:
    assert entry.spec is not None
    encoding = encode_weight(weight, entry.spec, site=entry.site.id)
    return dequantize(quantize_weight(weight, encoding), encoding)


def _finite(rows: FloatArray, variant: Variant) -> FloatArray:
    if not np.all(np.isfinite(rows)):
        fix = "check the checkpoint's weights and the examples: `qpipe analyse outliers` names the first such site"
        raise NumericsError("an output holds NaN or infinity", where=variant.name, fix=fix)
    return rows
