"""Reading and writing ONNX files: checked on the way in, atomic on the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError

from qonnx_pipe.core.files import atomic_directory_write
from qonnx_pipe.errors import ModelError, NumericsError

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of weights above which they go into a file beside the model: protobuf ends at 2 GiB, the graph needs some."""


def load(path: Path) -> ir.Model:
    """Read a model with every node named, so that plans and censuses can speak of its nodes.

    Raises ModelError when the file is missing, truncated, no ONNX, or its external data are missing or too short.
    """
    if not path.is_file():
        raise ModelError("no such ONNX file", where=str(path), fix="give the path of a .onnx file")
    try:
        model = ir.load(path)
    except (DecodeError, ValueError, EOFError, KeyError, TypeError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if len(model.graph) == 0:
        raise _damaged(path, "it holds no nodes")
    _check_external_data(model, path)
    _name_nodes(model.graph)
    return model


def check_finite(model: ir.Model, path: Path) -> None:
    """Raise NumericsError when a float initializer holds NaN or infinity, naming it."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype.is_floating_point() and not np.all(np.isfinite(tensor.numpy())):
            raise NumericsError(
                f"initializer {name!r} holds NaN or infinity",
                where=str(path),
                fix="the checkpoint is damaged or its training diverged: export another one",
            )


def save(model: ir.Model, path: Path) -> None:
    """Write a model under a temporary name and rename it; weights over 2 GB go to `<name>.data` beside it.

    Raises UsageError when the folder cannot be written, Interrupted when the disk is full; an older file survives both.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    with atomic_directory_write(path.parent) as scratch:
        if size > PROTOBUF_LIMIT:
            ir.save(model, scratch / path.name, external_data=f"{path.name}.data")
        else:
            ir.save(model, scratch / path.name)


def _check_external_data(model: ir.Model, path: Path) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.path)
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
