"""Sensitivity: what quantizing each matrix alone is expected to cost by several estimators, and what it does cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Estimator = Literal["measured", "fisher", "taylor", "taylor_squared", "trace", "omega"]
"""Of a matrix w and its quantization error Δ, in nats of the loss, means over examples.

measured: Kullback-Leibler divergence from the float model, executed. fisher: ½ Σ E[g²] Δ², the diagonal of the
empirical Fisher information. taylor: E|g·Δ|. taylor_squared: ½ E(g·Δ)². trace: ½ tr(H)/n ‖Δ‖² (Dong et al. 2020,
HAWQ-V2). omega: ½ Ω ‖Δ‖², with Ω of the matrix (Shen et al. 2019, Q-BERT).
"""

ESTIMATORS: tuple[Estimator, ...] = ("measured", "fisher", "taylor", "taylor_squared", "trace", "omega")

Bits = int


@dataclass(frozen=True)
class Eigenvalue:
    """The Hessian's eigenvalue of largest magnitude, as one power iteration found it.

    `residual`: ‖Hv − λv‖ / |λ|; some eigenvalue lies within that share of λ. `converged`: λ had come to rest.
    """

    value: float
    iterations: int
    residual: float
    converged: bool


@dataclass(frozen=True)
class Curvature:
    """One block of the Hessian: the top eigenvalue over random parts of the data.

    `name`: "layer 3" or a site's id. `lanczos`: the two largest eigenvalues on the data of the first run.
    """

    name: str
    runs: tuple[Eigenvalue, ...]
    lanczos: tuple[float, float] | None = None

    @property
    def omega(self) -> float:
        """Q-BERT's Ω = |mean λ| + std λ over the runs (Shen et al. 2019, eq. 2)."""
        return abs(self.mean) + self.spread

    @property
    def mean(self) -> float:
        """Mean of λ over the runs."""
        return float(np.mean([run.value for run in self.runs]))

    @property
    def spread(self) -> float:
        """Standard deviation of λ over the runs."""
        return float(np.std([run.value for run in self.runs]))

    @property
    def negative(self) -> bool:
        """Whether the strongest curvature of any run is negative: the model is at no minimum of its loss."""
        return any(run.value < 0 for run in self.runs)

    @property
    def converged(self) -> bool:
        """Whether every run came within its tolerance."""
        return all(run.converged for run in self.runs)


@dataclass(frozen=True)
class Change:
    """What quantizing one matrix did to the executed model.

    `divergence`: Kullback-Leibler divergence from the float model in nats; squared error over power for outputs that
    are no class scores. `loss`: increase of the mean loss, nats; None for such. `sqnr_db`: of the outputs.
    """

    divergence: float
    loss: float | None
    sqnr_db: float


@dataclass(frozen=True)
class Matrix:
    """One weight or table at the bits it may get.

    `elements` values take `bytes` in the file, scales included; `errors` are ‖Δ‖². `costs`: estimator → bits → nats.
    `spread`: standard error of a `trace`, standard deviation of λ for `omega`. `changes`: by bits, where measured.
    """

    site: str
    layer: int | None
    elements: int
    bytes: Mapping[Bits, int]
    errors: Mapping[Bits, float]
    costs: Mapping[Estimator, Mapping[Bits, float]] = field(default_factory=dict)
    spread: Mapping[Estimator, float] = field(default_factory=dict)
    changes: Mapping[Bits, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Loss over a plane through the weights: along the top two eigenvectors of one block of the Hessian.

    `losses[i][j]` at `steps[i]` along the first and `steps[j]` along the second; steps are in units of the weights.
    """

    name: str
    eigenvalues: tuple[float, float]
    steps: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Sensitivity:
    """The content of `sensitivity.json`.

    `labels`: "data", or "model" where the float model's own predictions stood in for labels. `rest_bytes`: what the
    file holds beside the matrices, as the recipe says.
    """

    examples: int
    labels: Literal["data", "model"]
    loss: float | None
    rest_bytes: int
    matrices: tuple[Matrix, ...]
    layers: tuple[Curvature, ...] = ()
    blocks: tuple[Curvature, ...] = ()
    slices: tuple[Slice, ...] = ()

    @property
    def bits(self) -> tuple[Bits, ...]:
        """All widths that some matrix may get, ascending."""
        return tuple(sorted({bits for matrix in self.matrices for bits in matrix.bytes}))

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        """Those that every matrix has."""
        return tuple(name for name in ESTIMATORS if all(name in matrix.costs for matrix in self.matrices))

    @property
    def correlations(self) -> dict[Estimator, dict[Bits, float]]:
        """Spearman's rank correlation of each estimator with the measured change over the matrices, bits by bits."""
        measured = [matrix for matrix in self.matrices if matrix.changes]
        if len(measured) < 2:
            return {}
        return {
            name: {
                bits: spearman(
                    [one.costs[name][bits] for one in having], [one.changes[bits].divergence for one in having]
                )
                for bits in self.bits
                if len(having := [one for one in measured if bits in one.changes]) > 1
            }
            for name in self.estimators
            if name != "measured"
        }

    def to_json(self) -> dict[str, object]:
        """Plain values for `sensitivity.json`; what follows from the others stands there too, for readers."""
        layers = [{**asdict(one), "omega": one.omega, "negative": one.negative} for one in self.layers]
        blocks = [{**asdict(one), "omega": one.omega, "negative": one.negative} for one in self.blocks]
        correlations = {name: _texts(found) for name, found in self.correlations.items()}
        return {
            "version": 1,
            **asdict(self),
            "matrices": [_matrix_to_json(matrix) for matrix in self.matrices],
            "layers": layers,
            "blocks": blocks,
            "correlations": correlations,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on anything that `to_json` does not write."""
        slices = tuple(
            Slice(one["name"], _pair(one["eigenvalues"]), tuple(one["steps"]), tuple(map(tuple, one["losses"])))
            for one in data["slices"]
        )
        return cls(
            data["examples"],
            data["labels"],
            data["loss"],
            data["rest_bytes"],
            tuple(_matrix_from_json(one) for one in data["matrices"]),
            tuple(_curvature(one) for one in data["layers"]),
            tuple(_curvature(one) for one in data["blocks"]),
            slices,
        )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation ρ in −1 … 1, ties sharing their mean rank; 0 where either side has one value alone."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    a, b = (values - values.mean() for values in ranks)
    size = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / size if size else 0.0


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places], np.float64)


def _texts(values: Mapping[Bits, object]) -> dict[str, object]:
    """JSON has no numbers as keys."""
    return {str(bits): value for bits, value in values.items()}


def _numbers(values: Mapping[str, Any]) -> dict[Bits, Any]:
    return {int(bits): value for bits, value in values.items()}


def _matrix_to_json(matrix: Matrix) -> dict[str, object]:
    return {
        "site": matrix.site,
        "layer": matrix.layer,
        "elements": matrix.elements,
        "bytes": _texts(matrix.bytes),
        "errors": _texts(matrix.errors),
        "costs": {name: _texts(costs) for name, costs in matrix.costs.items()},
        "spread": dict(matrix.spread),
        "changes": {str(bits): asdict(change) for bits, change in matrix.changes.items()},
    }


def _matrix_from_json(data: Mapping[str, Any]) -> Matrix:
    return Matrix(
        data["site"],
        data["layer"],
        data["elements"],
        _numbers(data["bytes"]),
        _numbers(data["errors"]),
        {name: _numbers(costs) for name, costs in data["costs"].items()},
        dict(data["spread"]),
        {bits: Change(**change) for bits, change in _numbers(data["changes"]).items()},
    )


def _curvature(data: Mapping[str, Any]) -> Curvature:
    found = None if data["lanczos"] is None else _pair(data["lanczos"])
    return Curvature(data["name"], tuple(Eigenvalue(**run) for run in data["runs"]), found)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return first, second
