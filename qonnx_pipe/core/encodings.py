"""Encodings: all that quantizing made of a model's sites, as `encodings.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.changes import changes
from qonnx_pipe.core.encoding import Encoding


@dataclass(frozen=True)
class Encodings:
    """Every encoding of a quantized model, by site id.

    `folds`: what each dimension of a site went through before its encoding holds. `corrections`: by linear layer, the
    root mean square of what was added to its bias, in units of its output. `orders`: which original dimension stands
    where, at sites whose tensor the graph computes in another order; folds are in that order.
    """

    activations: Mapping[str, Encoding]
    weights: Mapping[str, Encoding]
    folds: Mapping[str, Affine]
    corrections: Mapping[str, float]
    orders: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain values for `encodings.json`."""
        return {
            "version": 1,
            "activations": {site: encoding.to_json() for site, encoding in self.activations.items()},
            "weights": {site: encoding.to_json() for site, encoding in self.weights.items()},
            "smoothing": {site: fold.scale.astype(np.float64).tolist() for site, fold in self.folds.items()},
            "shifts": {
                site: fold.shift.astype(np.float64).tolist() for site, fold in self.folds.items() if fold.shifts
            },
            "bias_corrections": dict(self.corrections),
            "orders": {site: list(order) for site, order in self.orders.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Encodings:
        """The inverse of `to_json`; KeyError, TypeError or ValueError on anything that `to_json` does not write."""
        activations, weights = (
            {site: Encoding.from_json(one) for site, one in data[kind].items()} for kind in ("activations", "weights")
        )
        changed = changes(data)
        return cls(
            activations,
            weights,
            {site: change.fold for site, change in changed.items() if change.fold is not None},
            data["bias_corrections"],
            {site: change.order for site, change in changed.items() if change.order is not None},
        )
