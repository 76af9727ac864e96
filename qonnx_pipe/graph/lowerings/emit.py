"""Emit: new nodes and initializers with unique names, the vocabulary of every lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qonnx_pipe.core.encoding import Encoding

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators."""


@dataclass(frozen=True, eq=False)
class Codes:
    """A tensor of integer codes, and the 0-d scale and zero point that they are read with."""

    value: ir.Value
    scale: ir.Value
    zero_point: ir.Value


class Emitter:
    """Adds nodes and initializers to one graph; a name that is taken gets a counter.

    Nodes are appended: sort the graph when done.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.emitted: set[ir.Node] = set()
        self._names = set(graph.initializers) | {str(value.name) for value in graph.inputs}
        for node in graph:
            self._names.add(str(node.name))
            self._names.update(str(value.name) for value in node.outputs)

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A new initializer."""
        name = self._unique(name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=name),
        )
        self.graph.register_initializer(value)
        return value

    def scales(self, name: str, array: npt.NDArray[np.float32]) -> ir.Value:
        """Scales as halves and a Cast, computed when a session opens, where that loses nothing; else as they are."""
        with np.errstate(over="ignore"):
            halves = array.astype(np.float16)
        if (halves != array).any():
            return self.constant(name, array)
        (scales,) = self.node("Cast", (self.constant(name, halves),), f"{name}_Cast", {"to": int(ir.DataType.FLOAT)})
        scales.type, scales.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
        return scales

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
        *,
        outputs: int = 1,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """A new node with `outputs` outputs, named after it; `domain` is declared where it is not the standard one."""
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        name = self._unique(name)
        values = [
            ir.Value(name=self._unique(f"{name}_out{index}" if index else f"{name}_out")) for index in range(outputs)
        ]
        node = ir.node(op_type, inputs, attributes, outputs=values, name=name, domain=domain)
        self.emitted.add(node)
        self.graph.append(node)
        return tuple(values)

    def quantize(self, value: ir.Value, encoding: Encoding, name: str) -> Codes:
        """QuantizeLinear with one scale for the whole tensor.

        Scale and zero point are 0-d: onnxruntime's fusions refuse the shape [1]. A type narrower than its storage
        (6 bits in uint8) gets a Clip in front, because QuantizeLinear saturates at the storage's ends only.
        """
        if encoding.dtype.bits < 8 * encoding.dtype.storage.itemsize:
            value = self._clip(value, encoding, name)
        scale = self.constant(f"{name}_scale", np.asarray(encoding.scale, np.float32))
        zero = self.constant(f"{name}_zero_point", np.asarray(encoding.zero_point, encoding.dtype.storage))
        (codes,) = self.node("QuantizeLinear", (value, scale, zero), f"{name}_QuantizeLinear")
        codes.type, codes.shape = zero.type, value.shape
        return Codes(codes, scale, zero)

    def _clip(self, value: ir.Value, encoding: Encoding, name: str) -> ir.Value:
        """The values that the outermost codes of a type stand for, and what lies between."""
        ends = (np.asarray([encoding.dtype.qmin, encoding.dtype.qmax]) - encoding.zero_point) * encoding.scale
        low, high = (
            self.constant(f"{name}_{side}", np.asarray(end, np.float32))
            for side, end in zip(("low", "high"), ends, strict=True)
        )
        (clipped,) = self.node("Clip", (value, low, high), f"{name}_Clip")
        clipped.type, clipped.shape = value.type, value.shape
        return clipped

    def dequantize(self, codes: Codes, name: str) -> ir.Value:
        """DequantizeLinear of what `quantize` gave."""
        inputs = (codes.value, codes.scale, codes.zero_point)
        (real,) = self.node("DequantizeLinear", inputs, f"{name}_DequantizeLinear")
        real.type, real.shape = codes.scale.type, codes.value.shape
        return real

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` stand for the only output of `node` everywhere, under its name, and remove the node."""
        old = node.outputs[0]
        value.type, value.shape = old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        self.remove(node)
        value.name, old.name = old.name, None

    def remove(self, node: ir.Node) -> None:
        """Remove a node whose outputs nothing reads."""
        self.graph.remove(node, safe=True)

    def replace_output(self, value: ir.Value, other: ir.Value) -> None:
        """Make `other` the graph output that `value` was, under the name that it had."""
        name = str(value.name)
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = other
        value.name, other.name = self._unique(f"{name}_float"), name

    def rename(self, value: ir.Value, name: str) -> None:
        """Give a value another name, with a counter if it is taken."""
        value.name = self._unique(name)

    def release(self, value: ir.Value | None) -> None:
        """Forget an initializer that nothing reads any more, and its bytes."""
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            del self.graph.initializers[str(value.name)]
            value.const_value = None

    def _unique(self, name: str) -> str:
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique
