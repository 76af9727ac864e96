"""Rounding: codes of weights that were found from data, not rounded to the nearest, and how well they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.numerics import broadcast, dequantize, quantize
from qonnx_pipe.core.reconstruction import Reconstruction

Codes = npt.NDArray[np.generic]

FACTS = "facts"

STEP = 1 + 1e-3
"""Steps that a code is away from its weight at most: one, and room for float32, whose division is wrong by 1e-5 at
codes of ±128."""

LEAST_LIKENESS = 0.15
"""Cosine that codes and their weight have at least. Codes of another weight have about 0; two bits under one range a
column, the worst there is, have 0.6."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Codes [in, out] of one weight.

    `changed`: share of codes that nearest rounding would not have given. `undecided`: share of soft values that had
    not come to 0 or 1 when AdaRound ended, and were cut there. `nearest_error` and `error`: squared error of the
    layer's output over its power, on the learning's own tokens, with nearest and with learned rounding. `note`: what
    was amiss with the data.
    """

    codes: Codes
    changed: float
    undecided: float
    nearest_error: float
    error: float
    note: str = ""

    @classmethod
    def better(
        cls, codes: Codes, encoding: Encoding, problem: Reconstruction, *, undecided: float = 0.0, note: str = ""
    ) -> Learned:
        """What was found, but for the outputs that nearest rounding serves better: columns do not need each other."""
        nearest = quantize(problem.weight, encoding)
        before, after = (problem.errors(dequantize(each, encoding)) for each in (nearest, codes))
        codes = np.where(after > before, nearest, codes)
        power = float(problem.power.sum()) or 1.0
        return cls(
            codes,
            changed=float(np.mean(codes != nearest)),
            undecided=undecided,
            nearest_error=float(before.sum() / power),
            error=float(np.minimum(before, after).sum() / power),
            note=note,
        )


def is_rounding_of(codes: Codes, weight: FloatArray, encoding: Encoding) -> bool:
    """Whether every code is its weight rounded up or down, or clipped to the type's ends: what AdaRound gives."""
    if codes.shape != weight.shape or codes.dtype.kind not in "iu":
        return False
    scale, zero_point = broadcast(encoding, weight.shape)
    real = np.clip(weight / scale + zero_point, encoding.dtype.qmin, encoding.dtype.qmax)
    return bool(np.all(np.abs(codes.astype(np.int32) - real) < STEP))


def belong(codes: Codes, weight: FloatArray, encoding: Encoding) -> bool:
    """Whether codes may be GPTQ's of a weight: of its shape, within the type's ends, and pointing where it points.

    GPTQ moves a code by more than a step to make up for others, so no single code tells.
    """
    if codes.shape != weight.shape or codes.dtype != encoding.dtype.storage:
        return False
    if np.any(np.clip(codes, encoding.dtype.qmin, encoding.dtype.qmax) != codes):
        return False
    real = dequantize(codes, encoding)
    product, lengths = float(np.vdot(real, weight)), float(np.linalg.norm(real) * np.linalg.norm(weight))
    return product >= LEAST_LIKENESS * lengths


def to_arrays(learned: Mapping[str, Learned]) -> dict[str, Codes]:
    """Flat arrays for an .npz file: codes by site id, the rest as JSON text under "facts"."""
    facts = {
        site: {name: value for name, value in vars(found).items() if name != "codes"} for site, found in learned.items()
    }
    codes = {site: found.codes for site, found in learned.items()}
    return {**codes, FACTS: np.asarray(json.dumps(facts, sort_keys=True))}


def from_arrays(arrays: Mapping[str, Codes]) -> dict[str, Learned]:
    """The inverse of `to_arrays`; KeyError, TypeError or ValueError on anything that it does not write."""
    facts = json.loads(str(arrays[FACTS]))
    return {site: Learned(arrays[site], **facts[site]) for site in arrays if site != FACTS}
