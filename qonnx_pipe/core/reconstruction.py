"""Reconstruction: how far any quantized weight is from its float layer's output, in a few sums over tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray

Doubles = npt.NDArray[np.float64]

TOKENS = 1024
"""Tokens that are added up at once in single precision; their sums are added up in double."""

LEAST_POWER = 1e-6
"""A token whose target has less than this share of the mean power counts as if it had that."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The squared error ‖X̂Ŵ − Y‖² of a layer's outputs for any Ŵ = W + D, as DᵀGD + 2DᵀR + r: the mean over tokens.

    X̂ [n, in] are the layer's inputs in the model quantized so far, Y = XW [n, out] its outputs in the float model, both
    without the bias (asymmetric reconstruction, Nagel et al. 2020, eq. 25). `gram` G = X̂ᵀX̂ [in, in], `drift`
    R = X̂ᵀ(X̂W − Y) [in, out], `rest` r = ‖X̂W − Y‖² and `power` ‖Y‖², both [out]. Errors of small D cancel nowhere.
    """

    weight: FloatArray
    gram: Doubles
    drift: Doubles
    rest: Doubles
    power: Doubles

    @classmethod
    def of(cls, weight: FloatArray, inputs: FloatArray, targets: FloatArray, *, relative: bool) -> Reconstruction:
        """The sums over `inputs` X̂ [n, in] and `targets` Y [n, out], n > 0.

        `relative`: each token's error counts over the power of its target, as a LayerNormalization behind it sees it.
        Else the few tokens with outliers (Bondarenko et al. 2021, section 3) take all the freedom there is.
        """
        rows, columns = weight.shape
        gram, drift = np.zeros((rows, rows)), np.zeros((rows, columns))
        rest, power = np.zeros(columns), np.zeros(columns)
        counts = _relative(targets) if relative else np.ones((len(targets), 1), np.float32)
        for part in _slices(len(inputs)):
            seen, wanted = inputs[part] * counts[part], targets[part] * counts[part]
            off = seen @ weight - wanted
            gram += seen.T @ seen
            drift += seen.T @ off
            rest += np.square(off, dtype=np.float64).sum(axis=0)
            power += np.square(wanted, dtype=np.float64).sum(axis=0)
        return cls(weight, *(total / len(inputs) for total in (gram, drift, rest, power)))

    def errors(self, quantized: FloatArray) -> Doubles:
        """Squared error of each output with some weight [in, out], shape (out,)."""
        change = quantized.astype(np.float64) - self.weight
        bent = self.gram @ change
        bent += 2 * self.drift
        return np.asarray(np.einsum("io,io->o", change, bent) + self.rest)


def _slices(count: int) -> Iterator[slice]:
    for first in range(0, count, TOKENS):
        yield slice(first, first + TOKENS)


def _relative(targets: FloatArray) -> FloatArray:
    """What each token is multiplied by, [n, 1]: one over its target's root mean square; their mean square is 1."""
    power = np.square(targets, dtype=np.float64).mean(axis=1, keepdims=True)
    counts = 1 / np.maximum(power, LEAST_POWER * power.mean() + np.finfo(np.float32).tiny)
    return np.asarray(np.sqrt(counts / counts.mean()), np.float32)
