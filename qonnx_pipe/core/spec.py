"""QuantSpec: what a tensor should become (intent), before any data were seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qonnx_pipe.core.granularity import Granularity
from qonnx_pipe.core.qtype import QType

RangeMethod = Literal[
    "minmax", "running_minmax", "mse", "mse_grid", "golden_section", "percentile", "entropy", "cross_entropy"
]
Rounding = Literal["nearest", "adaround", "gptq"]
AccuracyLevel = Literal[0, 4]
"""How onnxruntime multiplies by weights in blocks of inputs: in float, or with the activation in 8 bits."""

Form = Literal["auto", "reference", "split", "fold", "expand", "float"]
"""How a quantizer of activations becomes nodes; see `graph.lowerings`."""


@dataclass(frozen=True)
class QuantSpec:
    """Type, symmetry, granularity and range method of one quantizer.

    A symmetric quantizer has zero point 0 for signed types and the middle code for unsigned ones. `smooth`, for
    activations, is SmoothQuant's migration strength α in (0, 1]: how much of the dimensions' differences in range goes
    into the weights that read them (Xiao et al. 2022, eq. 4); 0 leaves both alone. `shift` also moves the middle of
    each dimension into the biases (Wei et al. 2023). `form` is the wanted lowering, `columns` how many `expand` may
    add, `rounding`, for weights, how real values become codes, `accuracy_level` how MatMulNBits multiplies by them.
    """

    dtype: QType
    granularity: Granularity
    symmetric: bool
    range: RangeMethod = "minmax"
    smooth: float = 0.0
    shift: bool = False
    form: Form = "auto"
    columns: int = 16
    rounding: Rounding = "nearest"
    accuracy_level: AccuracyLevel = 4

    @property
    def folds(self) -> bool:
        """Whether scales (and shifts) of the dimensions move into the constants around the tensor."""
        return self.form == "fold" or self.smooth > 0 or self.shift

    @property
    def rounds_by_data(self) -> bool:
        """Whether codes are chosen by what they do to a layer's output."""
        return self.rounding != "nearest"

    def __str__(self) -> str:
        extras = {
            " symmetric": self.symmetric,
            f" smooth {self.smooth:g}": self.smooth,
            " shift": self.shift,
            f" {self.form}": self.form != "auto",
            f" {self.rounding}": self.rounding != "nearest",
            f" accuracy_level {self.accuracy_level}": self.accuracy_level != 4,
        }
        return f"{self.dtype.name} {self.granularity} {self.range}{''.join(text for text, on in extras.items() if on)}"
