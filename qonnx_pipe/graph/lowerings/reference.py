"""Reference: quantizers with a scale for each dimension, written as the standard says: the oracle of other forms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.metadata import SESSION_KEY, WITHOUT_FUSION
from qonnx_pipe.graph.lowerings.emit import Emitter


def lower_per_axis(emit: Emitter, value: ir.Value, encoding: Encoding) -> ir.Value:
    """`value` [..., d] → QuantizeLinear → DequantizeLinear along the last axis: quantized, in its own order, real.

    A scale and a zero point stand for each dimension, or one for all. Slow, and only right in a session without QDQ
    fusion: `require_session` says so in the file.
    """
    name, kind, shape = str(value.name), value.type, value.shape
    scale, zero_point = encoding.scale, encoding.zero_point
    if isinstance(encoding.granularity, EmbeddingGroups):
        group = encoding.granularity.group_of_dimension()
        scale, zero_point = scale[group], zero_point[group]
    if encoding.dtype.bits < 8 * encoding.dtype.storage.itemsize:  # QuantizeLinear saturates at the storage's ends
        for operator, bound in (("Max", encoding.dtype.qmin), ("Min", encoding.dtype.qmax)):
            end = emit.constant(f"{name}_{operator}_end", ((bound - zero_point) * scale).astype(np.float32))
            (value,) = emit.node(operator, (value, end), f"{name}_{operator}")
    attributes = {"axis": -1} if scale.shape else {}
    scales = emit.constant(f"{name}_scale", scale)
    zeros = emit.constant(f"{name}_zero_point", np.asarray(zero_point, encoding.dtype.storage))
    (codes,) = emit.node("QuantizeLinear", (value, scales, zeros), f"{name}_QuantizeLinear", attributes)
    codes.type, codes.shape = zeros.type, shape
    inputs = (codes, scales, zeros)
    (real,) = emit.node("DequantizeLinear", inputs, f"{name}_DequantizeLinear", attributes)
    real.type, real.shape = kind, shape
    return real


def require_session(model: ir.Model) -> None:
    """Let the file say that it runs without QDQ fusion; `runtime.session` obeys."""
    model.metadata_props[SESSION_KEY] = WITHOUT_FUSION
