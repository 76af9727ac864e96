"""A raw exported file as the float graph that everything later works on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qonnx_pipe.errors import MissingDependency, ModelError, UsageError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.dimensions import dimension
from qonnx_pipe.graph.passes import simplifying

OPSETS = range(17, 26)
"""From the first opset with LayerNormalization to the last one that onnxscript can convert to."""

HARMFUL_OPTIMIZERS = (
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
    "fuse_qkv",
    "eliminate_duplicate_initializer",
)
"""Left out of onnxsim: Reshape → Gemm → Reshape has no integer kernel and loses the names, one MatMul for q, k and v
hides their roles, and `passes.Deduplicate` keeps better names."""

METADATA_PREFIX = "qonnx_pipe."


@dataclass(frozen=True)
class Simplified:
    """What became of the graph: numbers of nodes, of operators made by fusion, bytes saved by sharing.

    `inputs`: name → sizes, static or symbolic. `skipped`: what was left out, and why.
    """

    nodes_before: int
    nodes_after: int
    fused: Mapping[str, int]
    deduplicated_bytes: int
    opset: int
    inputs: Mapping[str, tuple[int | str | None, ...]]
    skipped: tuple[str, ...]


def simplify(source: Path, target: Path, *, opset: int, metadata: Mapping[str, str] | None = None) -> Simplified:
    """Simplify `source`, raise its opset to `opset` (never lower it), write it to `target` atomically.

    `metadata` goes into the file under "qonnx_pipe."; the exporter stays its producer. Batch and sequence sizes stay
    symbolic. Raises ModelError for an unreadable file, UsageError for an opset outside OPSETS, MissingDependency
    without the [export] extra.
    """
    if opset not in OPSETS:
        fix = f"use one from {OPSETS.start} to {OPSETS.stop - 1}"
        raise UsageError(f"opset {opset} is not supported", where="opset", fix=fix)
    raw = io.load(source)
    io.check_finite(raw, source)
    nodes_before, before, size = len(raw.graph), _operators(raw), _weight_bytes(raw)
    model, skipped = (raw, _TOO_LARGE) if size > io.PROTOBUF_LIMIT else _with_onnxsim(source, raw)
    _raise_opset(model, opset)
    bytes_before = _weight_bytes(model)
    model = simplifying()(model).model
    _describe(model, raw, metadata or {})
    io.save(model, target)
    fused = {name: count for name in _FUSED if (count := _operators(model)[name] - before[name]) > 0}
    saved = max(0, bytes_before - _weight_bytes(model))
    inputs = {str(value.name): _sizes(value) for value in model.graph.inputs}
    return Simplified(nodes_before, len(model.graph), fused, saved, model.graph.opset_imports[""], inputs, skipped)


_FUSED = ("Gelu", "LayerNormalization", "MatMul")
_TOO_LARGE = ("onnxsim: the model is over 2 GB, which protobuf cannot hold",)


def _with_onnxsim(source: Path, raw: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """The model after onnxsim, or as it was and why."""
    try:
        import onnxsim
    except ImportError as error:
        raise MissingDependency("simplifying needs onnxsim", fix="pip install 'qonnx-pipe[export]'") from error
    try:
        proto, _ = onnxsim.simplify(str(source), skipped_optimizers=list(HARMFUL_OPTIMIZERS), skip_fuse_bn=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return raw, (f"onnxsim: {first}",)
    return ir.serde.deserialize_model(proto), ()


def _raise_opset(model: ir.Model, opset: int) -> None:
    current = model.graph.opset_imports[""]
    if current >= opset:
        return
    from onnxscript.version_converter import ConvertVersionPass

    ConvertVersionPass(opset)(model)
    if model.graph.opset_imports[""] != opset:
        what = f"the model cannot be converted from opset {current} to {opset}"
        raise ModelError(what, where="opset", fix=f"ask for opset {current}")
    io.match_ir_version(model)


def _describe(model: ir.Model, raw: ir.Model, metadata: Mapping[str, str]) -> None:
    model.producer_name, model.producer_version = raw.producer_name, raw.producer_version
    model.metadata_props.clear()
    model.metadata_props.update(raw.metadata_props)
    model.metadata_props.update({f"{METADATA_PREFIX}{key}": value for key, value in metadata.items()})


def _operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def _sizes(value: ir.Value) -> tuple[int | str | None, ...]:
    return tuple(dimension(value, axis) for axis in range(len(value.shape or ())))


def _weight_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
