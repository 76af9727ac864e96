"""Sums: written so that onnxruntime's CPU provider runs them, and the normalisation behind them, fast."""

from __future__ import annotations

from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.lowerings.products import Signs, products


def keep_norms_apart(emit: Emitter) -> None:
    """Write each Add that a LayerNormalization reads as something else that computes the same.

    onnxruntime fuses Add and LayerNormalization into SkipLayerNormalization, whose CPU kernel takes two to three times
    as long as the two (profiled: onnxruntime 1.31, x86-64 with AVX512-VNNI). It looks for no other operator.

    1. r + y with y an integer product, or a Sum of some, that is read only here: Sub(r, -y), the sign inside the
       scales and the bias; bit for bit the same.
    2. Any other: Sum, which takes twice the time of an Add.
    """
    signs = Signs(emit)
    for norm in [node for node in emit.graph if node.op_type == "LayerNormalization"]:
        add = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if add is None or add.op_type != "Add":
            continue
        add.op_type = "Sum"
        for product, residual in (add.inputs, add.inputs[::-1]):
            if product is not None and (nodes := products(product)):
                signs.negate(nodes)
                add.op_type = "Sub"
                add.replace_input_with(0, residual)
                add.replace_input_with(1, product)
                emit.rename(product, f"{product.name}_negated")
                break


def subtract_products(emit: Emitter) -> None:
    """Write each Sum of integer products, as split layers have it, as differences: a - (-b) - (-c), bit for bit.

    onnxruntime's CPU kernel of Sum takes twice the time of its Sub; an Add behind a MatMul it would fuse with Gelu.
    """
    signs = Signs(emit)
    for node in [node for node in emit.graph if node.op_type == "Sum"]:
        values = [value for value in node.inputs if value is not None]
        parts = [products(value) for value in values]
        if not all(parts):
            continue
        total = values[0]
        for value, part in zip(values[1:], parts[1:], strict=True):
            signs.negate(part)
            (total,) = emit.node("Sub", (total, value), f"{node.name}_Sub")
        emit.replace(node, total)
