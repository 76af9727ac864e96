"""GPTQ: one input's codes after another, each making up for the errors of those before (Frantar et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.numerics import broadcast, quantize
from qonnx_pipe.core.reconstruction import Doubles, Reconstruction
from qonnx_pipe.core.rounding import Codes, Learned

Order = npt.NDArray[np.intp]

BLOCK = 128
"""Inputs whose errors are passed on in one matrix product."""

LEAST_DAMP = 1e-6
"""Where no damping is asked for and the Hessian turns out singular."""


@dataclass(frozen=True)
class Settings:
    """The paper's: `damp` is added to the Hessian's diagonal, in units of its mean (section 3.3, step 3).

    `act_order`: inputs come by falling power, so that what matters most has the most others to make up for it.
    `relative`: see `Reconstruction.of`; the paper's is False.
    """

    damp: float = 0.01
    act_order: bool = True
    relative: bool = True


def gptq(
    weight: FloatArray, encoding: Encoding, inputs: FloatArray, targets: FloatArray, settings: Settings
) -> Learned:
    """Codes of a weight [in, out] that keep `inputs` X̂ @ Ŵ, from inputs [n, in], close to `targets` Y [n, out].

    Minimised, greedily, is ‖X̂Ŵ − Y‖² + λ‖Ŵ − W‖². Its real-valued optimum is V = W − H⁻¹R with H = G + λI (G and R of
    `Reconstruction`). With H = UUᵀ, U upper triangular, what V − Ŵ costs is ‖Uᵀ(V − Ŵ)‖², whose row i holds no input
    behind i: so for each input in turn the best code is the nearest to v_i + Σ_{j<i} (u_ji/u_ii)(v_j − ŵ_j). These are
    the paper's codes; it reaches them by the Cholesky factor of H⁻¹ and by changing the inputs to come (eq. 2 and 3).

    Scales stay those of `encoding`, blocks of inputs included. An input that is always 0 gets its nearest codes, where
    the paper's code has 0. A Hessian that is not positive definite is damped ten times as much until it is. An output
    that nearest rounding serves better keeps it.
    """
    problem = Reconstruction.of(weight, inputs, targets, relative=settings.relative)
    power = np.diagonal(problem.gram)
    if not np.any(power):
        return Learned.better(quantize(weight, encoding), encoding, problem, note="all inputs are 0: nearest rounding")
    order = np.argsort(-power, kind="stable") if settings.act_order else np.arange(len(power))
    damped, upper, damp = _factored(problem.gram, order, settings.damp)
    best = weight - np.linalg.solve(damped, problem.drift)
    notes = []
    if dead := int(np.sum(power == 0)):
        notes.append(f"{dead} inputs are always 0: nearest rounding there")
    if damp > settings.damp:
        notes.append(f"Hessian not positive definite: damped by {damp:g}")
    return Learned.better(_codes(best, encoding, upper, order), encoding, problem, note="; ".join(notes))


def _factored(gram: Doubles, order: Order, damp: float) -> tuple[Doubles, Doubles, float]:
    """H, its factor U with its inputs in `order`, and what H was damped by."""
    mean = np.diagonal(gram).mean()
    while True:
        damped = gram.copy()
        damped[np.diag_indices_from(damped)] += damp * mean
        try:
            lower = np.asarray(np.linalg.cholesky(damped[np.ix_(order[::-1], order[::-1])]), np.float64)
        except np.linalg.LinAlgError:
            damp = max(10 * damp, LEAST_DAMP)
        else:
            return damped, lower[::-1, ::-1], damp


def _codes(best: Doubles, encoding: Encoding, upper: Doubles, order: Order) -> Codes:
    """The codes, input by input; `best` is V [in, out]."""
    scale, zero_point = (np.broadcast_to(part, best.shape)[order] for part in broadcast(encoding, best.shape))
    best, passed_on = best[order], upper / np.diagonal(upper)
    off = np.zeros_like(best)  # V − Ŵ, as far as it is decided
    codes = np.empty(best.shape, encoding.dtype.storage)
    for first in range(0, len(best), BLOCK):
        aims = best[first : first + BLOCK] + passed_on[:first, first : first + BLOCK].T @ off[:first]
        for place, aim in enumerate(aims, first):
            wanted = aim + passed_on[first:place, place] @ off[first:place]
            found = np.rint(wanted / scale[place]) + zero_point[place]
            found = np.clip(found, encoding.dtype.qmin, encoding.dtype.qmax)
            off[place] = best[place] - (found - zero_point[place]) * scale[place]
            codes[order[place]] = found
    return codes
