"""Summary of a file: operators, inputs and outputs, metadata, and how many bits each layer's weights have."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from qonnx_pipe.core.port import Port
from qonnx_pipe.graph import io
from qonnx_pipe.graph.linears import PLAIN_OPS, stored_codes
from qonnx_pipe.graph.lowerings.packing import unpacked
from qonnx_pipe.graph.size import stored
from qonnx_pipe.graph.walk import consumers

LAYER = re.compile(r"(?:layers?|blocks?|h)[._/](\d+)(?=[._/])")
"""How exporters write a layer's number into the names of its nodes."""


@dataclass(frozen=True)
class Summary:
    """What a file holds; `bits` counts elements of weights by layer ("layer.0", "other"), by type or packed bits."""

    opset: int
    operators: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str]
    bits: Mapping[str, Mapping[str, int]]


def summarise(path: Path) -> Summary:
    """Read a model and describe it; errors as in `io.load`."""
    model = io.load(path)
    graph = model.graph
    return Summary(
        graph.opset_imports.get("", 0),
        dict(Counter(node.op_type for node in graph).most_common()),
        tuple(map(_port, graph.inputs)),
        tuple(map(_port, graph.outputs)),
        dict(model.metadata_props),
        _bits(graph),
    )


def metadata(path: Path) -> dict[str, str]:
    """The model's metadata_props; errors as in `io.load`."""
    return dict(io.load(path).metadata_props)


def static_shape(path: Path) -> tuple[int, int] | None:
    """Batch and sequence of a file that takes no others, else None; errors as in `io.load`."""
    for port in summarise(path).inputs:
        if port.name == "input_ids" and all(isinstance(size, int) for size in port.shape):
            return int(port.shape[0]), int(port.shape[1])
    return None


def id2label(path: Path) -> dict[str, str]:
    """Class names by id: from the metadata `qonnx_pipe.id2label`, else from config.json beside the file, else none."""
    written = metadata(path).get("qonnx_pipe.id2label")
    if written is not None:
        found = json.loads(written)
    elif (config := path.with_name("config.json")).is_file():
        found = json.loads(config.read_text(encoding="utf-8")).get("id2label") or {}
    else:
        found = {}
    return {str(key): str(name) for key, name in found.items()}


def _port(value: ir.Value) -> Port:
    dimensions = value.shape if value.shape is not None else ()
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in dimensions)
    return Port(value.name or "", value.dtype.name.lower() if value.dtype else "unknown", shape)


def _bits(graph: ir.Graph) -> dict[str, dict[str, int]]:
    """Elements of matrices and tables, by type or packed bits; biases, norms and scales are left out."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value in dict.fromkeys(unpacked(value) for value in graph.initializers.values()):
        found = stored(value)
        if found is None or (value.const_value is not None and len(value.const_value.shape) < 2):
            continue
        readers = [node for reader in consumers(value) for node in (reader, *_behind(reader))]
        names = [value.name or "", *(node.name or "" for node in readers)]
        layers = [match[1] for name in names if (match := LAYER.search(name))]
        counts[f"layer.{layers[0]}" if layers else "other"][found.kind] += found.elements
    return {layer: dict(kinds) for layer, kinds in counts.items()}


def _behind(node: ir.Node) -> tuple[ir.Node, ...]:
    """Who reads what a node makes of a weight's codes; nobody else is asked for."""
    if node.op_type != "DequantizeLinear" and (node.op_type not in PLAIN_OPS or not stored_codes(node.outputs[0])):
        return ()
    return tuple(one for reader in consumers(node.outputs[0]) for one in (reader, *_behind(reader)))
