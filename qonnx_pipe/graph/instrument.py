"""Instrument: a copy of a model that also outputs, for every site, its extremes and, where asked, values or samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qonnx_pipe.core.site import Site, SiteMap
from qonnx_pipe.core.statistics import Request, Requests
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.emit import Emitter
from qonnx_pipe.graph.passes.infer_shapes import InferShapes

MASK_INPUT = "attention_mask"
TOKENS_INPUT, EXAMPLES_INPUT = "observe_tokens", "observe_examples"
"""Which samples to hand out: int64 [n, 2] of (row, position) and [n, 1] of rows; inputs only where they are asked."""


@dataclass(frozen=True)
class Outlets:
    """Names of the outputs that one site got; `values` and `samples` None unless they were asked for.

    `sums` are over the last axis, which stays with size 1; None but for the last site of each layer. `samples` has the
    shape [n, d]. `pairwise` as in Site.
    """

    minimum: str
    maximum: str
    sums: str | None = None
    values: str | None = None
    samples: str | None = None
    pairwise: bool = False


@dataclass(frozen=True)
class Instrumented:
    """An instrumented model: its file, the outlets of each site, and the outputs that the model had before.

    `tokens`: how many tokens every example has where no mask tells; None where a mask does, or nobody.
    """

    path: Path
    outlets: Mapping[str, Outlets]
    outputs: tuple[str, ...]
    tokens: int | None = None


def instrument(model: Path, sites: SiteMap, requests: Requests, target: Path) -> Instrumented:
    """Write an instrumented copy of `model` to `target`, its weights beside it.

    Every activation site gets its smallest and largest value: of each embedding dimension, shape (d,), or of the whole
    tensor, shape (1,), where the last axis is no embedding. Tokens that the attention mask leaves out do not count:

    1. [batch, tokens, d]: the tokens that count are gathered, [batch, n, d] with n tokens a row, whose ever they are.
    2. [batch, heads, query, key] or [batch·heads, query, key]: pairs with a padded side become 0, a value that the
       range of scores and probabilities holds anyway.
    3. No mask input (images), or no token axis (pooled outputs): everything counts.

    Where `requests` ask for samples, two more inputs say which, and only those tokens leave the graph: of [batch,
    tokens, d] those at TOKENS_INPUT, of [batch, d] the rows at EXAMPLES_INPUT. Pairwise sites give none, nor do sites
    with another number of tokens than the rest where there is no mask.

    Extremes are taken over the tokens of each example first, then over the batch: onnxruntime reduces a middle axis
    four times as fast as a leading one. Reductions stand right behind what they read, so that data are still in the
    cache and memory is free again early.

    Its ReduceMin and ReduceMax lose most NaN, while all operators of a transformer pass it on: the sums of the last
    site of each layer tell whether there was one in the layer. Raises ModelError for a tensor of unknown rank, and
    what `io.load` and `io.save` raise.
    """
    loaded = io.load(model)
    graph = loaded.graph
    outputs = tuple(str(output.name) for output in graph.outputs)
    values = {str(value.name): value for node in graph for value in node.outputs}
    _require_shapes(loaded, [values[site.tensor] for site in sites.activations], model)
    wishes = {request.site: request for request in requests.items}
    probe = _Probe(graph)
    last = {site.layer: site for site in sites.activations if not site.pairwise}
    outlets = {
        site.id: probe.outlets(
            site, values[site.tensor], wishes.get(site.id, Request(site.id)), with_sums=last.get(site.layer) is site
        )
        for site in sites.activations
    }
    probe.finish()
    io.save(loaded, target, beside=True)
    return Instrumented(target, outlets, outputs, probe.tokens)


def _require_shapes(model: ir.Model, values: Sequence[ir.Value], path: Path) -> None:
    """Infer what the file does not say; ModelError where that fails."""
    if any(value.shape is None for value in values):
        InferShapes()(model)
    unknown = next((value for value in values if value.shape is None), None)
    if unknown is not None:
        raise ModelError(
            f"the shape of {unknown.name!r} cannot be inferred", where=str(path), fix="write it with `qpipe export`"
        )


class _Probe:
    """Emits reductions, each next to the tensor that it reads."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.emit = Emitter(graph)
        axes = (-1, 0, 1, 2)
        self._axes = {axis: self.emit.constant(f"observe_axis{axis}", np.asarray([axis], np.int64)) for axis in axes}
        self._flat = self.emit.constant("observe_flat", np.asarray([0, -1], np.int64))
        mask = next((value for value in graph.inputs if value.name == MASK_INPUT), None)
        self._chosen: dict[str, ir.Value] = {}
        self.tokens: int | None = None
        self._rows: ir.Value | None = None
        self._pairs: ir.Value | None = None
        if mask is not None:
            self._rows, self._pairs = self._counted(mask), self._both(mask)

    def _counted(self, mask: ir.Value) -> ir.Value:
        """Places of tokens in [batch·tokens], as [batch, n]; the first ones twice where they do not divide.

        Where nothing is a token the first place stands for one.
        """
        node, constant = self.emit.node, self.emit.constant
        zero, one = (constant(f"observe_{i}", np.asarray(i, np.int64)) for i in (0, 1))
        flat, column = (
            constant(f"observe_{name}", np.asarray([i], np.int64)) for name, i in (("all", -1), ("none", 0))
        )
        (places,) = node("NonZero", (node("Reshape", (mask, flat), "observe_mask_flat")[0],), "observe_nonzero")
        (places,) = node("Reshape", (places, flat), "observe_tokens_places")
        (count,) = node("Size", (places,), "observe_count")
        (count,) = node("Max", (count, one), "observe_count_least")
        (batch,) = node("Shape", (mask,), "observe_batch", {"end": 1})
        (more,) = node("Sub", (node("Add", (count, batch), "observe_up")[0], one), "observe_up_to")
        (length,) = node("Div", (more, batch), "observe_length")
        (total,) = node(
            "ReduceProd", (node("Mul", (length, batch), "observe_cells")[0],), "observe_total", {"keepdims": 0}
        )
        (numbers,) = node("Range", (zero, total, one), "observe_numbers")
        (order,) = node("Mod", (numbers, count), "observe_order")
        (found,) = node("Concat", (places, column), "observe_found", {"axis": 0})
        (shape,) = node("Concat", (batch, flat), "observe_rows_shape", {"axis": 0})
        (rows,) = node("Gather", (found, order), "observe_rows_flat")
        return node("Reshape", (rows, shape), "observe_rows")[0]

    def _both(self, mask: ir.Value) -> ir.Value:
        """[batch, 1, tokens, tokens] of 1 where both sides are tokens, and 0."""
        (real,) = self.emit.node("Cast", (mask,), "observe_mask", {"to": int(ir.DataType.FLOAT)})
        (rows,) = self.emit.node("Unsqueeze", (real, self._axes[2]), "observe_queries")
        (columns,) = self.emit.node("Unsqueeze", (real, self._axes[1]), "observe_keys")
        (pairs,) = self.emit.node("Mul", (rows, columns), "observe_both")
        return self.emit.node("Unsqueeze", (pairs, self._axes[1]), "observe_pairs")[0]

    def outlets(self, site: Site, value: ir.Value, wish: Request, *, with_sums: bool) -> Outlets:
        """Outputs with the site's extremes and, if wanted, sums, values and samples."""
        assert value.shape is not None  # `instrument` asked for it
        width = [1] if site.pairwise else value.shape[-1:]
        minimum, maximum = self._extremes(site, value)
        found = Outlets(self._output(minimum, width), self._output(maximum, width), pairwise=site.pairwise)
        if with_sums:
            (sums,) = self.emit.node("ReduceSum", (value, self._axes[-1]), f"{value.name}_sums")
            found = replace(found, sums=self._output(sums, [*value.shape[:-1], 1]))
        if wish.histogram:
            found = replace(found, values=str(value.name))
            if not value.is_graph_output():
                self.graph.outputs.append(value)
        if wish.samples and not site.pairwise and (places := self._places(value.shape)) is not None:
            (samples,) = self.emit.node("GatherND", (value, places), f"{value.name}_samples")
            found = replace(found, samples=self._output(samples, [ir.SymbolicDim(None), value.shape[-1]]))
        return found

    def _places(self, shape: ir.Shape) -> ir.Value | None:
        """The input that says which samples to take of a tensor; None where nothing can say it."""
        if len(shape) == 2:
            return self._input(EXAMPLES_INPUT, 1)
        if self._rows is None and len(shape) == 3 and isinstance(shape[1], int):
            self.tokens = self.tokens or shape[1]
        masked = self._rows is not None or shape[1] == self.tokens
        return self._input(TOKENS_INPUT, 2) if len(shape) == 3 and masked else None

    def _input(self, name: str, columns: int) -> ir.Value:
        if name not in self._chosen:
            shape = ir.Shape([ir.SymbolicDim(f"{name}_n"), columns])
            self._chosen[name] = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT64))
            self.graph.inputs.append(self._chosen[name])
        return self._chosen[name]

    def _output(self, value: ir.Value, shape: Sequence[int | ir.SymbolicDim]) -> str:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
        self.graph.outputs.append(value)
        return str(value.name)

    def _extremes(self, site: Site, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        rank, name = len(value.shape or ()), str(value.name)
        if site.pairwise:
            value = self._masked_pairs(value)
            return self._whole("ReduceMin", value, name), self._whole("ReduceMax", value, name)
        if self._rows is not None and rank == 3:
            (flat,) = self.emit.node("Flatten", (value,), f"{name}_flat", {"axis": 2})
            (value,) = self.emit.node("Gather", (flat, self._rows), f"{name}_tokens", {"axis": 0})
        return self._per_dimension("ReduceMin", value, name, rank), self._per_dimension("ReduceMax", value, name, rank)

    def _per_dimension(self, operator: str, value: ir.Value, name: str, rank: int) -> ir.Value:
        """Extremes over all axes but the last: axis 1 first, then 0."""
        for step, axis in enumerate([1] * max(0, rank - 2) + [0]):
            inputs = (value, self._axes[axis])
            (value,) = self.emit.node(operator, inputs, f"{name}_{operator}{step}", {"keepdims": 0})
        return value

    def _whole(self, operator: str, value: ir.Value, name: str) -> ir.Value:
        """The extreme of a whole tensor, shape (1,); by example first, which two threads can share."""
        (value,) = self.emit.node("Reshape", (value, self._flat), f"{name}_{operator}_flat")
        for step, keepdims in ((1, 0), (0, 1)):
            inputs = (value, self._axes[step])
            (value,) = self.emit.node(operator, inputs, f"{name}_{operator}{step}", {"keepdims": keepdims})
        return value

    def _masked_pairs(self, value: ir.Value) -> ir.Value:
        if self._pairs is None:
            return value
        if value.shape is not None and len(value.shape) == 3:
            value = self._by_example(value)
        return self.emit.node("Mul", (value, self._pairs), f"{value.name}_pairs")[0]

    def _by_example(self, value: ir.Value) -> ir.Value:
        """[batch·heads, query, key] as [batch, heads, query, key]."""
        assert self._pairs is not None
        shape = self.emit.node("Shape", (self._pairs,), f"{value.name}_shape", {"end": 1})[0]
        tail = self.emit.node("Shape", (value,), f"{value.name}_tail", {"start": 1})[0]
        heads = self.emit.constant(f"{value.name}_heads", np.asarray([-1], np.int64))
        (form,) = self.emit.node("Concat", (shape, heads, tail), f"{value.name}_form", {"axis": 0})
        return self.emit.node("Reshape", (value, form), f"{value.name}_by_example")[0]

    def finish(self) -> None:
        """Move every reduction right behind the node that computes what it reads."""
        _interleave(self.graph, self.emit.emitted)


def _interleave(graph: ir.Graph, emitted: set[ir.Node]) -> None:
    """Put each emitted node at the first place where all its inputs are known; the others keep their order."""
    nodes = list(graph)
    computed = {value for node in nodes for value in node.outputs}
    missing = {node: len({value for value in node.inputs if value in computed}) for node in emitted}
    order: list[ir.Node] = []

    def place(node: ir.Node) -> None:
        order.append(node)
        for reader in dict.fromkeys(usage.node for value in node.outputs for usage in value.uses()):
            if reader in missing:
                missing[reader] -= len({value for value in reader.inputs if value in set(node.outputs)})
                if not missing[reader]:
                    place(reader)

    first = [node for node in nodes if node in emitted and not missing[node]]
    for node in (*first, *(node for node in nodes if node not in emitted)):
        place(node)
    graph.remove(nodes)
    graph.extend(order)
