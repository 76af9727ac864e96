"""Hessian: curvature of a loss in blocks of weights, by products with vectors; the matrix itself is never made.

A product is the gradient of (gradient · vector) (Pearlmutter 1994): two passes backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.core.sensitivity import Eigenvalue
from qonnx_pipe.errors import MissingDependency, NumericsError

Loss = Callable[[], Tensor]
"""A loss as a new graph at each call."""

TOLERANCE, MOST = 0.01, 100
"""Relative change of λ at which power iteration ends (Shen et al. 2019), and iterations at most."""

Vector = npt.NDArray[np.float64]


@dataclass
class Hessian:
    """The Hessian of a sum of `losses` over named `weights`; a single loss keeps its gradient's graph.

    So each product costs one pass backward where there is one loss, and a forward and two backward each where the data
    are split among several to bound the memory.
    """

    losses: Sequence[Loss]
    weights: Mapping[str, Tensor]
    _gradients: dict[str, Tensor] = field(default_factory=dict)

    def product(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """H v over the blocks in `vectors`: their rows and columns of the Hessian alone. NumericsError for NaN."""
        blocks = [self.weights[name] for name in vectors]
        total = [torch.zeros_like(block) for block in blocks]
        for loss in self.losses:
            slopes = self._slopes(loss)
            found = torch.autograd.grad(
                [slopes[name] for name in vectors],
                blocks,
                grad_outputs=list(vectors.values()),
                retain_graph=bool(self._gradients),
                materialize_grads=True,
            )
            total = [a + b for a, b in zip(total, found, strict=True)]
        if not all(bool(torch.isfinite(part).all()) for part in total):
            fix = "check the model's weights and the examples' labels"
            raise NumericsError("the Hessian holds NaN or infinity", where=next(iter(vectors)), fix=fix)
        return dict(zip(vectors, total, strict=True))

    def _slopes(self, loss: Loss) -> Mapping[str, Tensor]:
        if self._gradients:
            return self._gradients
        found = torch.autograd.grad(loss(), list(self.weights.values()), create_graph=True, materialize_grads=True)
        slopes = dict(zip(self.weights, found, strict=True))
        if len(self.losses) == 1:
            self._gradients = slopes
        return slopes


@dataclass(frozen=True)
class Block:
    """Some weights of a Hessian as one symmetric matrix of `size` rows."""

    hessian: Hessian
    names: Sequence[str]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(self.hessian.weights[name].numel() for name in self.names)

    def times(self, vector: Tensor) -> Tensor:
        """H v, flat."""
        found = self.hessian.product(self.apart(vector))
        return torch.cat([found[name].reshape(-1) for name in self.names])

    def apart(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector in the weights' shapes, by name."""
        weights = [self.hessian.weights[name] for name in self.names]
        pieces = torch.split(vector, [weight.numel() for weight in weights])
        return {
            name: piece.reshape(weight.shape) for name, piece, weight in zip(self.names, pieces, weights, strict=True)
        }


def top_eigenvalue(block: Block, *, seed: int, tolerance: float = TOLERANCE, most: int = MOST) -> Eigenvalue:
    """The eigenvalue of largest magnitude by power iteration from v ~ N(0, 1), normalised.

    It ends when λ = vᵀHv changes by less than `tolerance` of itself, or after `most` products.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(block.size, generator=generator)
    vector /= vector.norm()
    value, residual = 0.0, float("inf")
    for iteration in range(1, most + 1):
        product = block.times(vector)
        before, value = value, float(vector @ product)
        residual = float((product - value * vector).norm()) / max(abs(value), 1e-30)
        norm = float(product.norm())
        if norm == 0.0:
            return Eigenvalue(0.0, iteration, 0.0, converged=True)
        if iteration > 1 and abs(value - before) <= tolerance * abs(value):
            return Eigenvalue(value, iteration, residual, converged=True)
        vector = product / norm
    return Eigenvalue(value, most, residual, converged=False)


def largest(
    block: Block, count: int, *, seed: int, tolerance: float = 1e-3
) -> tuple[Vector, npt.NDArray[np.float64]] | None:
    """The `count` largest eigenvalues, descending, and their unit eigenvectors [size, count], by Lanczos (ARPACK).

    None where it does not converge. Raises MissingDependency without scipy.
    """
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ImportError as error:
        raise MissingDependency("eigenvalues need scipy", fix="pip install 'qonnx-pipe[export]'") from error

    def times(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = block.times(torch.from_numpy(vector.ravel().astype(np.float32)))
        return np.asarray(found.numpy(), np.float64)

    start = np.random.default_rng(seed).normal(size=block.size)
    operator = LinearOperator((block.size, block.size), matvec=times, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which="LA", tol=tolerance, v0=start, maxiter=MOST)
    except ArpackNoConvergence:
        return None
    order = np.argsort(-values)
    return values[order], vectors[:, order]


def traces(hessian: Hessian, *, probes: int, seed: int) -> dict[str, tuple[float, float]]:
    """Trace of each weight's own block, and its standard error, by Hutchinson's estimator (1989).

    E vᵀHv = tr H for v of independent signs; one product serves all blocks, as the other blocks' signs cancel in the
    mean.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {name: [] for name in hessian.weights}
    for _ in range(probes):
        signs = {
            name: torch.randint(0, 2, weight.shape, generator=generator).to(weight.dtype) * 2 - 1
            for name, weight in hessian.weights.items()
        }
        for name, product in hessian.product(signs).items():
            found[name].append(float((signs[name] * product).sum()))
    return {
        name: (float(np.mean(values)), float(np.std(values) / np.sqrt(max(len(values) - 1, 1))))
        for name, values in found.items()
    }


def plane(block: Block, directions: Vector, steps: Sequence[float]) -> list[list[float]]:
    """The sum of the losses at weights + a·first + b·second of `directions` [size, 2]; a row for each a of `steps`."""
    first, second = (block.apart(torch.from_numpy(column.astype(np.float32))) for column in directions.T)
    weights = {name: block.hessian.weights[name] for name in block.names}
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    rows: list[list[float]] = []
    with torch.no_grad():
        for one in steps:
            rows.append([])
            for two in steps:
                for name, weight in weights.items():
                    weight.copy_(start[name] + one * first[name] + two * second[name])
                rows[-1].append(sum(float(loss()) for loss in block.hessian.losses))
        for name, weight in weights.items():
            weight.copy_(start[name])
    return rows


Errors = Mapping[str, Mapping[int, FloatArray]]
"""Weight → bits → quantization error Δ, in the weight's shape."""


@dataclass
class Slopes:
    """Sums over examples of what gradients say of quantization errors; `add` takes one example's loss."""

    weights: Mapping[str, Tensor]
    errors: Errors
    examples: int = 0
    _squares: dict[str, Tensor] = field(default_factory=dict)
    _first: dict[tuple[str, int], float] = field(default_factory=dict)
    _second: dict[tuple[str, int], float] = field(default_factory=dict)

    def add(self, loss: Tensor) -> None:
        """One more example. Raises NumericsError where its gradient is no number."""
        found = torch.autograd.grad(loss, list(self.weights.values()), materialize_grads=True)
        self.examples += 1
        for name, slope in zip(self.weights, found, strict=True):
            squares = self._squares.setdefault(name, torch.zeros_like(slope))
            squares.addcmul_(slope, slope)
            for bits, error in self.errors[name].items():
                dot = float(torch.dot(slope.reshape(-1), torch.from_numpy(error).reshape(-1)))
                if not np.isfinite(dot):
                    fix = "check the model's weights and the examples' labels"
                    raise NumericsError("a gradient holds NaN or infinity", where=name, fix=fix)
                key = name, bits
                self._first[key] = self._first.get(key, 0.0) + abs(dot)
                self._second[key] = self._second.get(key, 0.0) + dot * dot

    def fisher(self, name: str, bits: int) -> float:
        """½ Σ E[g²] Δ²."""
        square = torch.from_numpy(self.errors[name][bits]).square()
        return 0.5 * float((self._squares[name] * square).sum()) / self.examples

    def taylor(self, name: str, bits: int) -> float:
        """E|g·Δ|."""
        return self._first[name, bits] / self.examples

    def taylor_squared(self, name: str, bits: int) -> float:
        """½ E(g·Δ)²."""
        return 0.5 * self._second[name, bits] / self.examples
