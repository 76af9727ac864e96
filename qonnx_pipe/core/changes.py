"""Changes: what quantizing made of a tensor besides noise, as `encodings.json` says it, and how to undo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.encoding import FloatArray


@dataclass(frozen=True)
class Change:
    """A tensor's dimensions in another `order`, then an affine map; None for neither."""

    order: tuple[int, ...] | None = None
    fold: Affine | None = None

    def done(self, values: FloatArray) -> FloatArray:
        """Values [..., d] of the float model as the quantized one has them."""
        values = values if self.order is None else values[..., list(self.order)]
        return values if self.fold is None else self.fold(values)

    def undone(self, values: FloatArray, width: int) -> FloatArray | None:
        """Values [..., d] as the float model has them; None where they are not of `width` dimensions."""
        if values.shape[-1:] != (width,):
            return None
        if self.fold is not None:
            values = np.asarray(values * self.fold.scale + self.fold.shift, np.float32)
        return values if self.order is None else values[..., np.argsort(self.order)]


def changes(encodings: Mapping[str, Any]) -> dict[str, Change]:
    """The changes in the content of an `encodings.json`, by site id."""
    scales, shifts, orders = (encodings.get(name, {}) for name in ("smoothing", "shifts", "orders"))
    found = {}
    for site in {**scales, **orders}:
        fold = None
        if site in scales:
            scale = np.asarray(scales[site], np.float32)
            fold = Affine(scale, np.asarray(shifts.get(site, np.zeros_like(scale)), np.float32))
        found[site] = Change(tuple(orders[site]) if site in orders else None, fold)
    return found
