"""Gradients: Fisher, Taylor, and the curvature of the loss, matrix by matrix and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.core.sensitivity import Curvature, Eigenvalue, Slice
from qonnx_pipe.core.site import Site
from qonnx_pipe.core.targets import IGNORED, Targets
from qonnx_pipe.stages.analyse.executed import Baseline
from qonnx_pipe.stages.analyse.quantized import Weights
from qonnx_pipe.stages.analyse.simulation import Progress

if TYPE_CHECKING:
    from qonnx_pipe.source.hessian import Hessian
    from qonnx_pipe.source.network import GraphModule

RUNS, SHARE = 10, 0.1
"""Power iterations of a block, each on another random share of the examples (Shen et al. 2019, section 3.1)."""

PROBES = 4
"""Random vectors of a trace on each share; its standard error is told."""

CHUNK = 2048
"""Tokens whose graph is held at once: some gigabytes for a model of BERT-base's size."""

GRID = 11
"""Points along each side of a slice."""

SEED = 0

Labelled = tuple[Mapping[str, Array], Targets]


@dataclass(frozen=True, eq=False)
class Examples:
    """Single examples with what they should give, without their padding."""

    items: tuple[Labelled, ...]

    @classmethod
    def of(cls, base: Baseline) -> Examples:
        """All examples of the batches."""
        return cls(
            tuple(
                _single(batch, wanted, row)
                for batch, wanted in zip(base.batches, base.targets, strict=True)
                for row in range(len(batch))
            )
        )

    def share(self, number: int) -> list[Labelled]:
        """Random share number `number`, in chunks of at most CHUNK tokens with padding."""
        count = max(1, round(SHARE * len(self.items)))
        drawn = np.random.default_rng([SEED, number]).choice(len(self.items), count, replace=False)
        return list(_chunks(sorted((self.items[at] for at in drawn), key=_length)))


def _single(batch: Batch, wanted: Targets, row: int) -> Labelled:
    mask = batch.inputs.get("attention_mask")
    own = slice(None) if mask is None or not mask[row, 0] else slice(int(mask[row].sum()))
    shape = None if mask is None else mask.shape

    def cut(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return array[row : row + 1, own] if array.shape[:2] == shape else array[row : row + 1]

    return {name: cut(array) for name, array in batch.inputs.items()}, {
        name: cut(array).astype(np.int64) for name, array in wanted.items()
    }


def _length(item: Labelled) -> int:
    """Tokens of an example; 1 where it has none."""
    return max((array.shape[1] for array in item[0].values() if array.ndim == 2), default=1)


def _chunks(items: Sequence[Labelled]) -> Iterator[Labelled]:
    """Batches of examples that are sorted by length."""
    held: list[Labelled] = []
    for item in items:
        if held and _length(item) * (len(held) + 1) > CHUNK:
            yield _together(held)
            held = []
        held.append(item)
    yield _together(held)


def _together(items: Sequence[Labelled]) -> Labelled:
    """One batch; what is padded is masked, or does not count."""
    inputs, wanted = (
        {name: _stacked([item[part][name] for item in items], fill) for name in items[0][part]}
        for part, fill in ((0, 0), (1, IGNORED))
    )
    return inputs, {name: array.astype(np.int64) for name, array in wanted.items()}


def _stacked(arrays: Sequence[Array], fill: int) -> Array:
    if arrays[0].ndim != 2:
        return np.concatenate(arrays)
    width = max(array.shape[1] for array in arrays)
    rows = [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill) for array in arrays]
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Network:
    """The float model in torch, its weights' sites, and the examples that its loss is taken on."""

    module: GraphModule
    sites: Sequence[Site]
    examples: Examples
    base: Baseline

    @classmethod
    def of(cls, model: Path, sites: Sequence[Site], base: Baseline) -> Network:
        """Raises ModelError for an operator without a derivative here, MissingDependency without torch."""
        from qonnx_pipe.graph.network import read_network
        from qonnx_pipe.source.loading import quiet

        with quiet():
            from qonnx_pipe.source.network import GraphModule

            module = GraphModule(read_network(model))
        return cls(module, sites, Examples.of(base), base)

    def hessian(self, number: int) -> Hessian:
        """That of the mean loss over random share `number`."""
        from qonnx_pipe.source.hessian import Hessian
        from qonnx_pipe.source.objective import losses

        weights = {site.id: self.module.weights[site.tensor] for site in self.sites}
        return Hessian(losses(self.module, self.examples.share(number)), weights)

    def groups(self) -> dict[str, list[str]]:
        """Weights of each encoder layer, by its name."""
        found: dict[str, list[str]] = {}
        for site in self.sites:
            if site.layer is not None:
                found.setdefault(f"layer {site.layer}", []).append(site.id)
        return found


Costs = dict[str, dict[tuple[str, int], float]]
"""Estimator → (site, bits) → nats."""


def slopes(network: Network, weights: Weights, progress: Progress) -> Costs:
    """fisher, taylor and taylor_squared, from the gradients of single examples."""
    from qonnx_pipe.source.hessian import Slopes
    from qonnx_pipe.source.objective import losses

    errors = {
        site.id: {bits: network.base.board.stored(site, weights.error(site, bits)) for bits in by_bits}
        for site, by_bits in weights.specs.items()
    }
    found = Slopes({site.id: network.module.weights[site.tensor] for site in network.sites}, errors)
    for item in network.examples.items:
        (loss,) = losses(network.module, [item])
        found.add(loss())
        progress(1)
    pairs = [(site, bits) for site, by_bits in errors.items() for bits in by_bits]
    makers = {"fisher": found.fisher, "taylor": found.taylor, "taylor_squared": found.taylor_squared}
    return {name: {pair: make(*pair) for pair in pairs} for name, make in makers.items()}


def traces(network: Network, progress: Progress) -> dict[str, tuple[float, float]]:
    """Trace of each matrix's block of the Hessian, its standard error over RUNS shares of the examples."""
    from qonnx_pipe.source import hessian

    runs = []
    for number in range(RUNS):
        runs.append(hessian.traces(network.hessian(number), probes=PROBES, seed=SEED + number))
        progress(1)
    return {
        site: (
            float(np.mean([run[site][0] for run in runs])),
            float(np.std([run[site][0] for run in runs]) / np.sqrt(RUNS - 1)),
        )
        for site in runs[0]
    }


def curvatures(
    network: Network, groups: Mapping[str, Sequence[str]], progress: Progress, *, lanczos: bool
) -> list[Curvature]:
    """The top eigenvalue of each group of weights over RUNS random shares; with `lanczos` also both largest of one."""
    from qonnx_pipe.source.hessian import Block, largest, top_eigenvalue

    runs: dict[str, list[Eigenvalue]] = {name: [] for name in groups}
    ends: dict[str, tuple[float, float] | None] = dict.fromkeys(groups)
    for number in range(RUNS):
        hessian = network.hessian(number)
        for name, sites in groups.items():
            block = Block(hessian, sites)
            runs[name].append(top_eigenvalue(block, seed=SEED + number))
            if lanczos and not number and (found := largest(block, 2, seed=SEED)) is not None:
                ends[name] = (float(found[0][0]), float(found[0][1]))
            progress(1)
    return [Curvature(name, tuple(runs[name]), ends[name]) for name in groups]


def landscape(network: Network, name: str, sites: Sequence[str], reach: float) -> Slice | None:
    """Loss on the first share around the weights of a group, `reach` to all sides; None where Lanczos found nothing."""
    from qonnx_pipe.source.hessian import Block, largest, plane

    hessian = network.hessian(0)
    block = Block(hessian, sites)
    found = largest(block, 2, seed=SEED)
    if found is None:
        return None
    values, vectors = found
    steps = [float(step) for step in np.linspace(-reach, reach, GRID)]
    rows = plane(block, vectors, steps)
    return Slice(name, (float(values[0]), float(values[1])), tuple(steps), tuple(map(tuple, rows)))
