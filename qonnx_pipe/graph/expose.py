"""Expose: a copy of a model that also hands out the values of some of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from qonnx_pipe.core.site import Site
from qonnx_pipe.graph import io


def expose(model: Path, sites: Sequence[Site], target: Path) -> None:
    """Write a copy of `model` to `target` whose outputs hold the tensor of each of `sites`, under its own name.

    The outputs that the model had come first. Raises what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    values = {str(value.name): value for node in loaded.graph for value in node.outputs}
    for site in sites:
        value = values[site.tensor]
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        if not value.is_graph_output():
            loaded.graph.outputs.append(value)
    io.save(loaded, target)


def named(model: Path) -> frozenset[str]:
    """Names of all tensors that nodes of a model compute. Raises what `io.load` raises."""
    return frozenset(str(value.name) for node in io.load(model).graph for value in node.outputs)
