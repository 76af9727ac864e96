"""Weight: the codes of a linear layer's weight and what they mean, as the lowerings pass them around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Codes [in, out] of a linear layer's weight and their encoding; new initializers are named after `name`.

    `row_scale`: what the rows were multiplied by before they were quantized, shape (in,); None for nothing.
    `accuracy_level`: that of MatMulNBits.
    """

    name: str
    codes: npt.NDArray[np.generic]
    encoding: Encoding
    row_scale: FloatArray | None = None
    accuracy_level: int = 0

    def __post_init__(self) -> None:
        if not self.is_grouped and self.encoding.granularity not in (PerTensor(), PerChannel(1)):
            raise ValueError(f"{self.name}: weights of a linear layer are not lowered {self.encoding.granularity}")

    @property
    def is_grouped(self) -> bool:
        """Whether groups of inputs share a scale: no integer kernel of 8 bits takes that."""
        return isinstance(self.encoding.granularity, PerGroup) and self.encoding.granularity.axis == 0

    @property
    def kernel_type(self) -> np.dtype[np.generic]:
        """What kernels read: int8, which all of them take, holds codes of fewer than 8 bits, unsigned ones too."""
        return np.dtype(np.int8) if self.encoding.dtype.bits < 8 else self.encoding.dtype.storage
