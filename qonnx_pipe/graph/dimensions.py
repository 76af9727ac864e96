"""What a shape tensor says: numbers, and dimensions copied from other values."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qonnx_pipe.graph.constants import integers

NEVER_ENDING = 1 << 40
"""Slice ends beyond this mean "to the end"."""


@dataclass(frozen=True)
class Copied:
    """Size of `value` along `axis` (≥ 0), which is known only when the model runs."""

    value: ir.Value
    axis: int

    def is_dimension(self, axis: int, of: ir.Value) -> bool:
        """Whether this is surely also the size of `of` along `axis`: the same tensor, or the same symbol."""
        if self.value is of:
            return self.axis == axis
        mine, other = dimension(self.value, self.axis), dimension(of, axis)
        return mine is not None and mine == other


Entry = int | Copied


def dimension(value: ir.Value, axis: int) -> int | str | None:
    """A static size, the name of a symbolic one, or None where nothing is known."""
    if value.shape is None or axis >= len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else size.value


def entries(target: ir.Value | None) -> tuple[Entry, ...] | None:
    """The entries of a rank-1 (or rank-0) shape tensor; None when one is not understood.

    Understood are constants, Shape, and Gather, Slice, Squeeze, Unsqueeze, Identity and Concat of what is understood.
    """
    if (numbers := integers(target)) is not None:
        return numbers
    node = target.producer() if target is not None else None
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Shape":
            found = _shape(node)
        case "Concat":
            found = _joined(node)
        case "Unsqueeze" | "Squeeze" | "Identity":
            found = entries(node.inputs[0])
        case "Gather" | "Slice":
            found = _selected(node)
        case _:
            found = None
    return found


def _joined(node: ir.Node) -> tuple[Entry, ...] | None:
    parts = [entries(part) for part in node.inputs]
    return None if None in parts else tuple(entry for part in parts if part is not None for entry in part)


def _shape(node: ir.Node) -> tuple[Entry, ...] | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    axes = range(len(value.shape))[_attribute(node, "start", 0) : _attribute(node, "end", NEVER_ENDING)]
    return tuple(_entry(value, axis) for axis in axes)


def _selected(node: ir.Node) -> tuple[Entry, ...] | None:
    """Entries that a Gather or Slice takes out of a shape; of an unknown rank, only those counted from its start."""
    source = node.inputs[0]
    whole = entries(source)
    arguments = [integers(value) for value in node.inputs[1:]]
    if None in arguments:
        return None
    producer = source.producer() if source is not None else None
    if whole is None and node.op_type == "Gather" and producer is not None and producer.op_type == "Shape":
        value, indices = producer.inputs[0], arguments[0] or ()
        known = value is not None and not producer.attributes and all(index >= 0 for index in indices)
        return tuple(Copied(value, index) for index in indices) if known and value is not None else None
    if whole is None:
        return None
    if node.op_type == "Gather":
        chosen = arguments[0] or ()
        return tuple(whole[i] for i in chosen) if all(-len(whole) <= i < len(whole) for i in chosen) else None
    start, end, *rest = (argument[0] for argument in arguments if argument)
    step = rest[1] if len(rest) > 1 else 1
    return whole[start : min(end, NEVER_ENDING) : step] if step > 0 else None


def _entry(value: ir.Value, axis: int) -> Entry:
    size = dimension(value, axis)
    return size if isinstance(size, int) else Copied(value, axis)


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default
