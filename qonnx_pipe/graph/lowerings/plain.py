"""Plain: a quantized weight made real by ordinary arithmetic, which onnxruntime takes for no quantizer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerGroup
from qonnx_pipe.graph.lowerings.emit import Emitter


def plain_weight(
    emit: Emitter, name: str, codes: npt.NDArray[np.generic], encoding: Encoding, row_scale: FloatArray | None = None
) -> ir.Value:
    """A weight [in, out] as Cast(codes) → Sub(zero point) → Mul(scale), and what else it takes.

    1. PerTensor, PerChannel: as said; the Sub only where a zero point is not 0.
    2. PerGroup along the inputs: codes are stored as [groups, size, out]; a Reshape at the end.
    3. `row_scale`, what the rows were multiplied by before, shape (in,): a Div at the end.

    onnxruntime computes it once, when a session opens: stored small, run in float. Of a DequantizeLinear it would make
    a MatMulNBits, which quantizes the activation without saying so.
    """
    scale, zero_point = encoding.scale, encoding.zero_point
    groups = isinstance(encoding.granularity, PerGroup)
    if groups:
        codes = codes.reshape(len(scale), -1, codes.shape[1])
        scale, zero_point = scale[:, None], zero_point[:, None]
    stored = emit.constant(f"{name}_codes", codes)
    (real,) = emit.node("Cast", (stored,), f"{name}_Cast", {"to": int(ir.DataType.FLOAT)})
    if np.any(zero_point):
        zero = emit.constant(f"{name}_zero_point", zero_point.astype(np.float32))
        (real,) = emit.node("Sub", (real, zero), f"{name}_Sub")
    (real,) = emit.node("Mul", (real, emit.constant(f"{name}_scale", scale)), f"{name}_Mul")
    if groups:
        shape = emit.constant(f"{name}_shape", np.asarray([-1, codes.shape[2]], np.int64))
        (real,) = emit.node("Reshape", (real, shape), f"{name}_Reshape")
    if row_scale is not None:
        rows = emit.constant(f"{name}_row_scale", row_scale[:, None].astype(np.float32))
        (real,) = emit.node("Div", (real, rows), f"{name}_Div")
    real.type = ir.TensorType(ir.DataType.FLOAT)
    return real
