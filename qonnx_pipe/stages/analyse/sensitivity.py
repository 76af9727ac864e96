"""Sensitivity: what each matrix costs at each width: executed, and as gradients and curvature expect it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.plan import PlanEntry
from qonnx_pipe.core.sensitivity import ESTIMATORS, Curvature, Estimator, Matrix, Sensitivity, Slice
from qonnx_pipe.errors import UsageError
from qonnx_pipe.graph.summary import id2label
from qonnx_pipe.recipe.budget import Budget
from qonnx_pipe.stages.analyse import executed, gradients, simulation
from qonnx_pipe.stages.analyse.executed import Baseline
from qonnx_pipe.stages.analyse.gradients import RUNS, Costs, Network
from qonnx_pipe.stages.analyse.quantized import Specs, Weights
from qonnx_pipe.stages.analyse.simulation import Progress

SLOPES: tuple[Estimator, ...] = ("fisher", "taylor", "taylor_squared")


@dataclass(frozen=True)
class Questions:
    """What to find out: estimators for each matrix, Ω of each layer, slices of the loss around two layers."""

    estimators: frozenset[Estimator] = frozenset(ESTIMATORS)
    layers: bool = True
    slices: bool = True

    @classmethod
    def of(cls, budget: Budget) -> Questions:
        """Those that a budget has."""
        asked = budget.questions
        return cls(frozenset(), slices=False) if asked == "layers" else cls(frozenset({asked}), False, False)

    @property
    def gradients(self) -> bool:
        """Whether derivatives are needed, and so torch and class scores."""
        return self.layers or self.slices or bool(self.estimators - {"measured"})

    def steps(self, specs: Specs, examples: int) -> int:
        """How many steps `sensitivity` tells."""
        layers = len({site.layer for site in specs} - {None})
        variants = sum(map(len, specs.values()))
        return (
            variants * ("measured" in self.estimators)
            + examples * bool(self.estimators & set(SLOPES))
            + RUNS * ("trace" in self.estimators)
            + RUNS * layers * self.layers
            + RUNS * len(specs) * ("omega" in self.estimators)
            + 2 * self.slices
        )


def sensitivity(
    model: Path,
    specs: Specs,
    others: Sequence[PlanEntry],
    batches: Sequence[Batch],
    *,
    task: str,
    questions: Questions,
    workdir: Path,
    progress: Progress,
) -> Sensitivity:
    """Answer `questions` about the weights in `specs` of the float `model`, over `batches`; activations stay float.

    `others`: the constants beside them, for the size of the file. `progress` hears steps. Raises DataError without
    batches or for labels that the model does not know, UsageError where derivatives are asked for and the model has
    no class scores, and what sessions and torch's side raise.
    """
    simulation.require(batches)
    sites, weights = list(specs), Weights.of(model, specs)
    base = executed.baseline(
        model, sites, batches, task=tasks.find(task), names=id2label(model), target=workdir / "overridable.onnx"
    )
    matrices = list(weights.matrices())
    changes = executed.measured(base, weights, progress) if "measured" in questions.estimators else {}
    costs: Costs = {"measured": {pair: change.divergence for pair, change in changes.items()}} if changes else {}
    found = Sensitivity(
        sum(map(len, batches)),
        "data" if base.from_data else "model",
        base.loss,
        weights.rest(model.stat().st_size, others),
        tuple(
            replace(one, changes={bits: changes[one.site, bits] for bits in one.bytes} if changes else {})
            for one in matrices
        ),
    )
    if questions.gradients:
        _require_scores(base, task)
        network = Network.of(model, sites, base)
        found = _derived(found, network, weights, costs=costs, questions=questions, progress=progress)
    return replace(found, matrices=tuple(_with_costs(one, costs) for one in found.matrices))


def _derived(
    found: Sensitivity,
    network: Network,
    weights: Weights,
    *,
    costs: Costs,
    questions: Questions,
    progress: Progress,
) -> Sensitivity:
    """All that derivatives tell: further `costs` in place, spreads, curvatures and slices."""
    asked = questions.estimators
    if asked & set(SLOPES):
        costs |= {name: known for name, known in gradients.slopes(network, weights, progress).items() if name in asked}
    spread: dict[str, dict[Estimator, float]] = {one.site: {} for one in found.matrices}
    if "trace" in asked:
        traces = gradients.traces(network, progress)
        costs["trace"] = _quadratic(
            found.matrices, {one.site: traces[one.site][0] / one.elements for one in found.matrices}
        )
        for site, (_, error) in traces.items():
            spread[site]["trace"] = error
    layers: Sequence[Curvature] = ()
    if questions.layers or questions.slices:
        layers = gradients.curvatures(network, network.groups(), progress, lanczos=questions.slices)
    blocks: Sequence[Curvature] = ()
    if "omega" in asked:
        alone = {one.site: [one.site] for one in found.matrices}
        blocks = gradients.curvatures(network, alone, progress, lanczos=False)
        costs["omega"] = _quadratic(found.matrices, {one.name: one.omega for one in blocks})
        for block in blocks:
            spread[block.name]["omega"] = block.spread
    matrices = tuple(replace(one, spread=spread[one.site]) for one in found.matrices)
    found = replace(found, matrices=matrices, layers=tuple(layers), blocks=tuple(blocks))
    return replace(found, slices=tuple(_slices(found, network, progress))) if questions.slices else found


def _slices(found: Sensitivity, network: Network, progress: Progress) -> Iterator[Slice]:
    """Of the most and the least sensitive layer, as wide as the error of its narrowest width."""
    ranked = sorted(found.layers, key=lambda layer: -layer.omega)
    groups = network.groups()
    for layer in dict.fromkeys((ranked[0].name, ranked[-1].name)) if ranked else ():
        own = [one for one in found.matrices if one.site in groups[layer]]
        reach = sum(max(one.errors.values()) for one in own) ** 0.5
        drawn = gradients.landscape(network, layer, groups[layer], reach)
        progress(1)
        if drawn is not None:
            yield drawn


def _quadratic(matrices: Sequence[Matrix], curvature: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """½ · curvature · ‖Δ‖²."""
    return {
        (one.site, bits): 0.5 * curvature[one.site] * error for one in matrices for bits, error in one.errors.items()
    }


def _with_costs(matrix: Matrix, costs: Costs) -> Matrix:
    own = {name: {bits: known[matrix.site, bits] for bits in matrix.bytes} for name, known in costs.items()}
    return replace(matrix, costs={name: own[name] for name in ESTIMATORS if name in own})


def _require_scores(base: Baseline, task: str) -> None:
    if not base.rows:
        what = f"task {task} has no class scores, so there is no loss to differentiate"
        raise UsageError(what, fix="use estimator: measured, or a model with a head")
