"""Rounding: codes of weights that were learned, not rounded to the nearest, and how well they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.numerics import broadcast

Codes = npt.NDArray[np.generic]

FACTS = "facts"


@dataclass(frozen=True, eq=False)
class Learned:
    """Codes [in, out] of one weight.

    `changed`: share of codes that nearest rounding would not have given. `undecided`: share of soft values that had
    not come to 0 or 1 when learning ended, and were cut there. `nearest_error` and `error`: squared error of the
    layer's output over its power, on the learning's own tokens, with nearest and with learned rounding.
    """

    codes: Codes
    changed: float
    undecided: float
    nearest_error: float
    error: float


def is_rounding_of(codes: Codes, weight: FloatArray, encoding: Encoding) -> bool:
    """Whether every code is its weight rounded up or down, or clipped to the type's ends."""
    if codes.shape != weight.shape or codes.dtype.kind not in "iu":
        return False
    scale, zero_point = broadcast(encoding, weight.shape)
    real = np.clip(weight / scale + zero_point, encoding.dtype.qmin, encoding.dtype.qmax)
    return bool(np.all(np.abs(codes.astype(np.int32) - real) < 1 + 1e-3))


def to_arrays(learned: Mapping[str, Learned]) -> dict[str, Codes]:
    """Flat arrays for an .npz file: codes by site id, the rest as JSON text under "facts"."""
    facts = {
        site: {
            "changed": found.changed,
            "undecided": found.undecided,
            "nearest_error": found.nearest_error,
            "error": found.error,
        }
        for site, found in learned.items()
    }
    codes = {site: found.codes for site, found in learned.items()}
    return {**codes, FACTS: np.asarray(json.dumps(facts, sort_keys=True))}


def from_arrays(arrays: Mapping[str, Codes]) -> dict[str, Learned]:
    """The inverse of `to_arrays`; KeyError, TypeError or ValueError on anything that it does not write."""
    facts = json.loads(str(arrays[FACTS]))
    return {site: Learned(arrays[site], **facts[site]) for site in arrays if site != FACTS}
