"""A file's graph as a Network, and a file with other weights under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.examples import Array
from qonnx_pipe.core.network import Attribute, Network, Node
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io


def read_network(path: Path) -> Network:
    """The graph of a file; Constant nodes become initializers. Raises what `io.load` raises."""
    graph = io.load(path).graph
    graph.sort()
    return _network(graph)


def write_weights(source: Path, weights: Mapping[str, Array], target: Path) -> None:
    """Write `source` to `target` with other values for the initializers in `weights`.

    Raises ModelError for a name that is no initializer or an array of another shape, and what `io.load` and `io.save`
    raise.
    """
    model = io.load(source)
    io.detach(model)
    for name, array in weights.items():
        found = model.graph.initializers.get(name)
        tensor = None if found is None else found.const_value
        if found is None or tensor is None or tuple(tensor.shape.numpy()) != array.shape:
            what = f"no initializer {name!r} of shape {array.shape}"
            raise ModelError(what, where=str(source), fix="give the weights that were trained from this very file")
        found.const_value = ir.tensor(np.ascontiguousarray(array, tensor.dtype.numpy()), name=name)
    io.save(model, target)


def _network(graph: ir.Graph) -> Network:
    constants = {str(name): _array(value.const_value) for name, value in graph.initializers.items()}
    nodes = []
    for node in graph:
        if node.op_type == "Constant":
            constants[str(node.outputs[0].name)] = _array(ir.convenience.get_const_tensor(node.outputs[0]))
        else:
            nodes.append(_node(node))
    inputs = tuple(str(value.name) for value in graph.inputs if str(value.name) not in constants)
    return Network(inputs, tuple(str(value.name) for value in graph.outputs), tuple(nodes), constants)


def _node(node: ir.Node) -> Node:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
    return Node(
        str(node.name),
        f"{domain}{node.op_type}",
        tuple("" if value is None else str(value.name) for value in node.inputs),
        tuple(str(value.name or "") for value in node.outputs),
        {name: _attribute(attribute) for name, attribute in node.attributes.items()},
    )


def _attribute(attribute: ir.Attr) -> Attribute:
    value = attribute.value
    if isinstance(value, ir.Graph):
        return _network(value)
    if isinstance(value, ir.TensorProtocol):
        return _array(value)
    if isinstance(value, (int, float, str)):
        return value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS):
        return tuple(value)
    raise ModelError(f"an attribute of type {attribute.type.name}", where=attribute.name, fix="give an exported graph")


def _array(tensor: ir.TensorProtocol | None) -> Array:
    if tensor is None:
        raise ValueError("a constant without a value")
    return tensor.numpy()
