"""Stock: the int8 files that ONNX Runtime's own tools make of the same float model, for comparison."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from qonnx_pipe.core.examples import Batch

STATIC = {"static MatMul": ["MatMul", "Gemm"], "static default": None}
"""Name → the operators that are quantized; None: all that ONNX Runtime quantizes by default."""


class Reader(CalibrationDataReader):
    """Batches, one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._inputs = iter([dict(batch.inputs) for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch's inputs; None at the end."""
        return next(self._inputs, None)


def stock(model: Path, batches: Sequence[Batch], folder: Path) -> dict[str, Path]:
    """Name → file: dynamic, static with MatMuls only, static with the default operators; all per channel.

    Weights are signed, activations unsigned 8 bits: what is fastest on this processor. A file that is there is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger().setLevel(logging.ERROR)  # a hint at every run to preprocess what is simplified already
    np.seterr(invalid="ignore")  # its default operators take in sites that are infinite at padded tokens
    found = {f"ORT {name}": folder / f"{name.replace(' ', '-')}.onnx" for name in ("dynamic", *STATIC)}
    if not found["ORT dynamic"].exists():
        quantize_dynamic(model, found["ORT dynamic"], per_channel=True, weight_type=QuantType.QInt8)
    for name, operators in STATIC.items():
        if not found[f"ORT {name}"].exists():
            quantize_static(
                model,
                found[f"ORT {name}"],
                Reader(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=operators,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    return found
