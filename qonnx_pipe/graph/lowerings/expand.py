"""Expand: outlier dimensions go on in further columns of one per-tensor integer MatMul.

A dimension whose values span n windows of codes needs n columns, each with the same weight row, whose codes add up to
the value at full resolution: a form of outlier channel splitting (Zhao et al., "Improving Neural Network Quantization
without Retraining using Outlier Channel Splitting", 2019), which is exact. With q = round(x/s) + z, unbounded, and
L = 2^b − 1, there are two ways to cut q into n codes:

1. Hermite's identity: Σ_{0≤i<n} ⌊y + i/n⌋ = ⌊n·y⌋. All n columns hold x/n, displaced by fractions of a step. The main
   column must hold x/n too, so the tensor itself changes and every other reader has to get it back.
2. Saturation: Σ_i clip(q − i·L, qmin, qmax) = q, apart from constants. The main column is what it would be anyway,
   and QuantizeLinear does the clipping; column i holds x − i·L·s. A column whose window x does not reach rests at
   qmin (at qmax below the main window).

This file writes the second: the same resolution, no other reader notices, and it works behind any operator, so behind
GELU too. A resting column's code is no zero, it reads as (qmin − z)·s: the surplus of its `Piece`, which the linear
layer takes out of its bias, times the *quantized* weight row, so exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding, FloatArray, Windows
from qonnx_pipe.core.numerics import displacements, resting_codes
from qonnx_pipe.graph.lowerings.emit import Codes, Emitter


def columns(emit: Emitter, value: ir.Value, encoding: Encoding, *, at_once: bool = False) -> Codes:
    """Codes [..., d + columns] of `value` [..., d]; each column shows the dimension that `Windows.rows` says.

    value → QuantizeLinear                ┐
    value → Gather → Sub → QuantizeLinear ┴ Concat: only the few further columns are gathered, and only bytes copied.

    `at_once`: value → Gather of all → Sub → QuantizeLinear, for a value that `compute_slices` lets a wider linear layer
    compute, in a runtime that fuses what follows into it.
    """
    windows = encoding.granularity
    assert isinstance(windows, Windows)
    name, away = str(value.name), displacements(encoding)
    if at_once:
        away = np.concatenate([np.zeros(windows.width, away.dtype), away])
        return emit.quantize(_moved(emit, value, windows.rows, away, f"{name}_columns"), encoding, name)
    main = emit.quantize(value, encoding, name)
    outliers = _moved(emit, value, windows.dimensions, away, f"{name}_outliers")
    more = emit.quantize(outliers, encoding, f"{name}_outliers")
    (joined,) = emit.node("Concat", (main.value, more.value), f"{name}_expanded_Concat", {"axis": -1})
    joined.type = main.zero_point.type
    return Codes(joined, main.scale, main.zero_point)


def _moved(emit: Emitter, value: ir.Value, dimensions: Sequence[int], away: FloatArray, name: str) -> ir.Value:
    """The chosen dimensions of `value`, each less its displacement."""
    places = emit.constant(name, np.asarray(dimensions, np.int64))
    (gathered,) = emit.node("Gather", (value, places), f"{name}_Gather", {"axis": -1})
    (moved,) = emit.node("Sub", (gathered, emit.constant(f"{name}_displacements", away)), f"{name}_Sub")
    moved.type = value.type
    return moved


def added_up(emit: Emitter, real: ir.Value, encoding: Encoding, name: str) -> ir.Value:
    """The dequantized tensor [..., d] of the dequantized columns [..., d + columns]: for readers that are no MatMul."""
    windows = encoding.granularity
    assert isinstance(windows, Windows)
    sizes = emit.constant(f"{name}_columns", np.asarray([windows.width, len(windows.dimensions)], np.int64))
    main, more = emit.node("Split", (real, sizes), f"{name}_columns_Split", {"axis": -1}, outputs=2)
    chosen = np.eye(windows.width, dtype=np.float32)[list(windows.dimensions)]
    resting = (resting_codes(encoding) - encoding.zero_point).astype(np.float32) * encoding.scale
    (spread,) = emit.node(
        "Einsum", (more, emit.constant(f"{name}_chosen", chosen)), f"{name}_Einsum", {"equation": "...c,cd->...d"}
    )
    taken_out = emit.constant(f"{name}_resting", (-resting @ chosen).astype(np.float32))
    (total,) = emit.node("Sum", (main, spread, taken_out), f"{name}_expanded_Sum")
    for value in (main, more, spread, total):
        value.type = real.type
    return total
