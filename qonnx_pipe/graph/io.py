"""Reading and writing ONNX files: checked on the way in, atomic on the way out."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from qonnx_pipe.core.files import atomic_directory_write
from qonnx_pipe.errors import ModelError, NumericsError

Model = ir.Model
"""A model in memory, for those above this room."""

LARGE = 100_000_000
"""Bytes of a model from which on no model that is no longer used should stay in memory beside it."""

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of weights above which they go into a file beside the model: protobuf ends at 2 GiB, the graph needs some."""


def load(path: Path) -> ir.Model:
    """Read a model with every node named, so that plans and censuses can speak of its nodes.

    Raises ModelError when the file is missing, truncated, no ONNX, or its external data are missing, too short, or
    outside of its folder.
    """
    if not path.is_file():
        raise ModelError("no such ONNX file", where=str(path), fix="give the path of a .onnx file")
    if sum(file.stat().st_size for file in (path, _beside(path)) if file.is_file()) > LARGE:
        gc.collect()  # models refer to themselves in rings
    try:
        model = ir.load(path)
    except (DecodeError, ir.serde.SerdeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if len(model.graph) == 0:
        raise _damaged(path, "it holds no nodes")
    if "" not in model.graph.opset_imports:
        raise _damaged(path, "it names no opset")
    _check_values(model.graph, path)
    _check_external_data(model, path)
    _name_nodes(model.graph)
    return model


def detach(model: ir.Model) -> None:
    """Give every tensor memory of its own, in place: a weight that is replaced is free then.

    A loaded model's tensors lie in one protobuf message, which lives as long as any of them.
    """
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.TensorProtoTensor):
            value.const_value = _own(value.const_value, name)
    for node in model.graph:
        for name, attribute in node.attributes.items():
            if isinstance(attribute.value, ir.TensorProtoTensor):
                node.attributes[name] = ir.AttrTensor(name, _own(attribute.value, attribute.value.name))


def _own(tensor: ir.TensorProtoTensor, name: str | None) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().copy(), name=name)


def match_ir_version(model: ir.Model) -> None:
    """Raise the file format's version, where it is too old, to the first that knows the model's opset."""
    opset = onnx.helper.make_opsetid("", model.graph.opset_imports[""])
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for([opset]))


def check_finite(model: ir.Model, path: Path) -> None:
    """Raise NumericsError when a float initializer holds NaN or infinity, naming it.

    A single −∞ is no weight: it is what a decoder's mask puts in place of the scores of later tokens.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point() or (tensor.size == 1 and tensor.numpy() == -np.inf):
            continue
        if not np.all(np.isfinite(tensor.numpy())):
            raise NumericsError(
                f"initializer {name!r} holds NaN or infinity",
                where=str(path),
                fix="the checkpoint is damaged or its training diverged: export another one",
            )


def save(model: ir.Model, path: Path, *, beside: bool = False) -> None:
    """Write a model under a temporary name and rename it; weights over 2 GB go to `<name>.data` beside it.

    `beside`: all weights do, which a session then maps instead of copying the file into memory and out of it. What
    stood in another model's external data is written here. Raises UsageError when the folder cannot be written,
    Interrupted when the disk is full; an older file survives both.
    """
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    beside = beside or sum(tensor.nbytes for tensor in tensors) > PROTOBUF_LIMIT
    if not beside:
        ir.external_data.load_to_model(model)
    with atomic_directory_write(path.parent) as scratch:
        ir.save(model, scratch / path.name, external_data=_beside(path).name if beside else None)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _check_values(graph: ir.Graph, path: Path) -> None:
    """Every value that is read comes from somewhere."""
    read = [(f"node {node.name or node.op_type!r}", value) for node in graph for value in node.inputs]
    for reader, value in [*read, *(("the graph", output) for output in graph.outputs)]:
        if value is None or value.producer() is not None or value.is_graph_input() or value.is_initializer():
            continue
        raise _damaged(path, f"{reader} reads {value.name!r}, which nothing computes")


def _check_external_data(model: ir.Model, path: Path) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.path)
        if Path(tensor.location).is_absolute() or ".." in Path(tensor.location).parts:
            raise _damaged(path, f"initializer {name!r} points out of its folder, to {tensor.location}")
        if not location.is_file():
            raise _damaged(path, f"initializer {name!r} points to {location}, which is not there")
        if location.stat().st_size < (tensor.offset or 0) + (tensor.length or tensor.nbytes):
            raise _damaged(path, f"{location} is too short for initializer {name!r}")


def _name_nodes(graph: ir.Graph) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)


def _damaged(path: Path, detail: str) -> ModelError:
    return ModelError(f"not a readable ONNX model ({detail})", where=str(path), fix="export or copy the file again")
