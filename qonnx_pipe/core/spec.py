"""QuantSpec: what a tensor should become (intent), before any data were seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qonnx_pipe.core.granularity import Granularity
from qonnx_pipe.core.qtype import QType

RangeMethod = Literal["minmax", "running_minmax", "mse", "percentile", "entropy"]


@dataclass(frozen=True)
class QuantSpec:
    """Type, symmetry, granularity and range method of one quantizer.

    A symmetric quantizer has zero point 0 for signed types and the middle code for unsigned ones.
    """

    dtype: QType
    granularity: Granularity
    symmetric: bool
    range: RangeMethod = "minmax"

    def __str__(self) -> str:
        return f"{self.dtype.name} {self.granularity} {self.range}{' symmetric' if self.symmetric else ''}"
