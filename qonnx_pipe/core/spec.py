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

    A symmetric quantizer has zero point 0 for signed types and the middle code for unsigned ones. `smooth`, for
    activations, is SmoothQuant's migration strength α in (0, 1]: how much of the dimensions' differences in range goes
    into the weights that read them (Xiao et al. 2022, eq. 4); 0 leaves both alone.
    """

    dtype: QType
    granularity: Granularity
    symmetric: bool
    range: RangeMethod = "minmax"
    smooth: float = 0.0

    def __str__(self) -> str:
        extras = f"{' symmetric' if self.symmetric else ''}{f' smooth {self.smooth:g}' if self.smooth else ''}"
        return f"{self.dtype.name} {self.granularity} {self.range}{extras}"
