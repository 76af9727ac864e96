"""Tied tables: a head multiplies by the very codes that are gathered, so that a file holds them once."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from qonnx_pipe.core.granularity import PerChannel, PerGroup
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph.lowerings.blocks import LEAST_BLOCK, dividing_block, is_block
from qonnx_pipe.graph.walk import constant_shape, consumers

TIED = (2, 4, 8)
"""Bits that GatherBlockQuantized and MatMulNBits both read, each from the same bytes."""


def tied_heads(table: ir.Value) -> tuple[ir.Node, ...]:
    """The MatMuls that multiply by the transpose of a table: what `passes.Deduplicate` makes of a tied head."""
    transposes = (node for node in consumers(table) if node.op_type == "Transpose")
    return tuple(node for transpose in transposes for node in consumers(transpose.outputs[0]) if _multiplies(node))


def tying_obstacle(table: ir.Value, lookups: Collection[str], spec: QuantSpec) -> str:
    """Why the head of a table [rows, d] cannot read its codes; "" when it can.

    1. Something but the nodes called `lookups`, and products with the transpose, reads the table.
    2. Other bits than TIED.
    3. A scale that is none of a row, or of a block of it whose size is a power of two from LEAST_BLOCK that divides d.
    4. Zero points of 4 bits with an odd number of blocks, as in `packing_obstacle`.
    """
    if not all(node.name in lookups or _is_head(node) for node in consumers(table)) or table.is_graph_output():
        return "something else than a lookup and a head reads it"
    bits, (_, width) = spec.dtype.bits, constant_shape(table)
    if bits not in TIED:
        return f"a table and its head share codes of {', '.join(map(str, TIED[:-1]))} or {TIED[-1]} bits, not {bits}"
    size = shared_block(spec, width)
    if size is None:
        wanted = f"per_row or {{per_group: N}}, N a power of two from {LEAST_BLOCK}, in rows that such blocks divide"
        return f"a table and its head share {wanted}, not {spec.granularity} in rows of {width}"
    if bits == 4 and not spec.symmetric and width // size % 2:
        return f"without symmetric: true, 4 bits want an even number of blocks a row, not {width // size}"
    return ""


def shared_block(spec: QuantSpec, width: int) -> int | None:
    """Values of a row of `width` that share a scale in both operators; None where no such blocks divide it.

    A scale a row is repeated for the largest blocks.
    """
    match spec.granularity:
        case PerChannel(0):
            size = dividing_block(width)
        case PerGroup(1, size):
            pass
        case _:
            return None
    return size if is_block(size) and width % size == 0 else None


def _is_head(node: ir.Node) -> bool:
    """Whether a node is a Transpose that only products read."""
    readers = consumers(node.outputs[0]) if node.op_type == "Transpose" else ()
    return bool(readers) and all(map(_multiplies, readers)) and not node.outputs[0].is_graph_output()


def _multiplies(node: ir.Node) -> bool:
    """Whether a node is a MatMul by something transposed."""
    maker = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
    if maker is None or maker.op_type != "Transpose":
        return False
    permutation = maker.attributes.get("perm")
    return permutation is None or tuple(permutation.as_ints()) == (1, 0)
