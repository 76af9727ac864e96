"""AdaRound: for each weight, up or down is learned so that its layer's output stays closest (Nagel et al. 2020)."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.numerics import broadcast
from qonnx_pipe.core.reconstruction import Doubles, Reconstruction
from qonnx_pipe.core.rounding import Learned
from qonnx_pipe.errors import MissingDependency

if TYPE_CHECKING:
    import torch

GAMMA, ZETA = -0.1, 1.1
"""Ends of the stretched sigmoid: beyond 0 and 1, so that a soft value really reaches them (eq. 23)."""

BLOCK = 1 << 17
"""Weights that are learned together: 512 KiB an array, so that what an iteration touches stays in the cache."""

DECIDED = 0.01
"""How close to 0 or 1 a soft value has come when it counts as decided."""


@dataclass(frozen=True)
class Settings:
    """How long and how hard to learn; the figures of Nagel et al. 2020 and Bondarenko et al. 2021, appendix B.

    `iterations` steps of Adam. `learning_rate` None means 10 / iterations: the papers' 10⁻³ at their 10,000, and the
    same way to go in fewer steps. `regularisation` is λ. Its exponent β falls from `beta[0]` to `beta[1]` by a cosine,
    after a first part of `warm_up` without regularisation. `relative`: see `learn_rounding`; the papers' is False.
    """

    iterations: int = 10_000
    learning_rate: float | None = None
    regularisation: float = 0.01
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: float = 0.2
    relative: bool = True

    @property
    def rate(self) -> float:
        """Adam's learning rate."""
        return 10.0 / self.iterations if self.learning_rate is None else self.learning_rate

    def beta_at(self, iteration: int) -> float | None:
        """The regulariser's exponent; None during the warm-up."""
        start = self.warm_up * self.iterations
        if iteration < start:
            return None
        hot, cold = self.beta
        return cold + 0.5 * (hot - cold) * (1.0 + math.cos(math.pi * (iteration - start) / (self.iterations - start)))


def learn_rounding(
    weight: FloatArray, encoding: Encoding, inputs: FloatArray, targets: FloatArray, settings: Settings
) -> Learned:
    """Codes of a weight [in, out] that keep `inputs` @ Ŵ, from inputs [n, in], close to `targets` [n, out].

    Inputs are those of the model quantized so far, targets the float layer's outputs on the same tokens (asymmetric
    reconstruction, eq. 25), both without the bias. Minimised over V, with h = clip(σ(V)(ζ − γ) + γ, 0, 1):

        mean over tokens, sum over outputs of (Y − X̂ Ŵ)²  +  λ Σ (1 − |2h − 1|^β),   Ŵ = s·clip(⌊W/s⌋ + h)

    The papers draw a batch of samples for each step. But the squared error is quadratic in Ŵ: two matrices, X̂ᵀX̂ and
    X̂ᵀY, hold all that it needs of the samples, and each step sees them all. On FC2 of MiniLM 300 such steps reach
    1.4 dB more than 300 on batches of 64 tokens, in twice the time.

    Without `relative` (see `Reconstruction.of`) the few tokens with outliers decide alone: with only FC2 of the
    sentiment MiniLM at 4 bits learned, logits have 21.1 dB with it, 15.7 without, 18.7 by nearest. An output that
    nearest rounding serves better keeps it. Raises MissingDependency without torch.
    """
    problem = Reconstruction.of(weight, inputs, targets, relative=settings.relative)
    scale, zero_point = broadcast(encoding, weight.shape)
    real = weight / scale
    down = np.clip(np.floor(real), encoding.dtype.qmin - zero_point, encoding.dtype.qmax - zero_point)
    up = np.clip(np.floor(real) + 1, encoding.dtype.qmin - zero_point, encoding.dtype.qmax - zero_point)
    cross = problem.gram @ weight - problem.drift
    soft = _Problem(problem.gram, cross, real - np.floor(real), scale * down, scale * (up - down), settings).solve()
    codes = (np.where(soft < 0.5, down, up) + zero_point).astype(encoding.dtype.storage)
    undecided = float(np.mean(np.abs(soft - 0.5) < 0.5 - DECIDED))
    return Learned.better(codes, encoding, problem, undecided=undecided)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is minimised: Ŵ = `start` + `step`·h against X̂ᵀX̂ and X̂ᵀY, with h beginning at `rest`."""

    gram: Doubles
    cross: Doubles
    rest: FloatArray
    start: FloatArray
    step: FloatArray
    settings: Settings

    def solve(self) -> FloatArray:
        """The learned h [in, out].

        Blocks of columns are learned on all cores, each on one thread, so that what comes out does not depend on the
        number of cores.
        """
        torch = _torch()
        columns = max(1, BLOCK // len(self.rest))
        parts = [slice(first, first + columns) for first in range(0, self.rest.shape[1], columns)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_flush_denormal, initargs=(True,)) as pool:
                return np.concatenate(list(pool.map(self._learned, parts)), axis=1)
        finally:
            torch.set_num_threads(threads)

    def _learned(self, part: slice) -> FloatArray:
        """The h of some columns, by gradients written out: those of autograd take twice the time."""
        torch = _torch()
        arrays = (self.gram, self.cross[:, part], self.rest[:, part], self.start[:, part], self.step[:, part])
        gram, cross, rest, start, step = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in arrays)
        learned = torch.nn.Parameter((rest - GAMMA).div_(ZETA - GAMMA).logit_())
        adam = torch.optim.Adam([learned], lr=self.settings.rate, fused=True)
        with torch.no_grad():
            for iteration in range(self.settings.iterations):
                sigmoid = torch.sigmoid(learned)
                soft = _stretched(sigmoid)
                slope = torch.addmm(cross, gram, torch.addcmul(start, step, soft), beta=-1).mul_(step).mul_(2)
                if (beta := self.settings.beta_at(iteration)) is not None:
                    slope.sub_(_pull(soft, beta), alpha=self.settings.regularisation)
                inside = torch.addcmul(soft, soft, soft, value=-1).ceil_()  # a clipped h has no slope
                inward = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1).mul_(ZETA - GAMMA)
                learned.grad = slope.mul_(inward).mul_(inside)
                adam.step()
            return np.asarray(_stretched(torch.sigmoid(learned)).numpy())


def _stretched(sigmoid: torch.Tensor) -> torch.Tensor:
    """The soft value h = clip(σ(ζ − γ) + γ, 0, 1)."""
    return (sigmoid * (ZETA - GAMMA)).add_(GAMMA).clamp_(0, 1)


def _pull(soft: torch.Tensor, beta: float) -> torch.Tensor:
    """−∂/∂h of 1 − |2h − 1|^β, which is 2β·|2h − 1|^(β−1)·sign(2h − 1); exp and log are thrice as fast as pow."""
    centred = soft * 2 - 1
    size = centred.abs().log_().mul_(beta - 1).exp_().mul_(2 * beta)
    return size.copysign_(centred)


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("AdaRound needs torch", fix="pip install 'qonnx-pipe[export]'") from error
    return torch
