"""Tiny ONNX graphs built in code: MatMuls in every quantized form, a classifier, an embedder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
WIDTH = 32


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
    **metadata: str,
) -> Path:
    """Write a checked model of the standard and the Microsoft operators."""
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    helper.set_model_props(model, {f"qonnx_pipe.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def tensor(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight_codes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 codes [in, out] and scales (out,) of a matrix."""
    scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def quantized_weight(
    name: str, weight: np.ndarray, *, zero_point: bool = True
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A DequantizeLinear that gives `name` from int8 codes with one scale a column."""
    codes, scale = weight_codes(weight)
    constants = {f"{name}_codes": codes, f"{name}_scale": scale}
    if zero_point:
        constants[f"{name}_zero"] = np.zeros(scale.shape, np.int8)
    node = helper.make_node("DequantizeLinear", list(constants), [name], f"{name}_dequantize", axis=1)
    return [node], constants


def quantized_activation(
    source: str, target: str, *, kind: type[np.generic] = np.uint8, per_axis: bool = False, bound: float = 4.0
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """QuantizeLinear and DequantizeLinear of [-bound, bound] between two values."""
    limits = np.iinfo(kind)
    step, middle = 2 * bound / (int(limits.max) - int(limits.min)), (int(limits.max) + int(limits.min) + 1) // 2
    shape = (WIDTH,) if per_axis else ()
    constants = {f"{target}_scale": np.full(shape, step, np.float32), f"{target}_zero": np.full(shape, middle, kind)}
    options = {"axis": -1} if per_axis else {}
    nodes = [
        helper.make_node("QuantizeLinear", [source, *constants], [f"{target}_codes"], f"{target}_quantize", **options),
        helper.make_node("DequantizeLinear", [f"{target}_codes", *constants], [target], f"{target}_deq", **options),
    ]
    return nodes, constants


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)


def float_matmul(path: Path) -> Path:
    """x [batch, sequence, WIDTH] @ weight → y, in float."""
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], "matmul")
    shape = ["batch", "sequence", WIDTH]
    return save(path, [node], [tensor("x", shape)], [tensor("y", shape)], {"weight": weight()})


def qdq_matmul(
    path: Path,
    *,
    quantize_activation: bool = True,
    zero_point: bool = True,
    per_axis: bool = False,
    kind: type[np.generic] = np.uint8,
    readers: int = 1,
    bias: Literal["none", "add", "gemm"] = "none",
    rank: int = 3,
) -> Path:
    """The same MatMul in QDQ form; the options take away what fusion needs.

    `readers` MatMuls read the same activation; `bias`: a float one, in an Add behind the MatMul or as a rank-2 Gemm's.
    """
    nodes, constants = (
        quantized_activation("x", "xq", kind=kind, per_axis=per_axis) if quantize_activation else ([], {})
    )
    for i in range(readers):
        more_nodes, more = quantized_weight(f"w{i}", weight(i), zero_point=zero_point)
        operands, constants = ["xq" if quantize_activation else "x", f"w{i}"], constants | more
        if bias != "none":
            constants[f"bias{i}"] = np.ones(WIDTH, np.float32)
        nodes = [*nodes, *more_nodes]
        if bias == "gemm":
            nodes.append(helper.make_node("Gemm", [*operands, f"bias{i}"], [f"y{i}"], f"matmul{i}"))
        elif bias == "add":
            nodes.append(helper.make_node("MatMul", operands, [f"product{i}"], f"matmul{i}"))
            nodes.append(helper.make_node("Add", [f"product{i}", f"bias{i}"], [f"y{i}"], f"add{i}"))
        else:
            nodes.append(helper.make_node("MatMul", operands, [f"y{i}"], f"matmul{i}"))
    shape = ["batch", WIDTH] if bias == "gemm" or rank == 2 else ["batch", "sequence", WIDTH]
    return save(path, nodes, [tensor("x", shape)], [tensor(f"y{i}", shape) for i in range(readers)], constants)


def split_matmul(path: Path, groups: int = 2) -> Path:
    """Split PEG: `groups` slices of x, each with a scale of its own, each times its rows of the weight, summed."""
    width = WIDTH // groups
    constants: dict[str, np.ndarray] = {"sizes": np.full(groups, width, np.int64)}
    parts = [f"x{i}" for i in range(groups)]
    nodes = [helper.make_node("Split", ["x", "sizes"], parts, "split", axis=-1)]
    for i in range(groups):
        activation_nodes, activation = quantized_activation(f"x{i}", f"x{i}q", bound=4.0 * (i + 1))
        weight_nodes, codes = quantized_weight(f"w{i}", weight()[i * width : (i + 1) * width])
        product = helper.make_node("MatMul", [f"x{i}q", f"w{i}"], [f"y{i}"], f"matmul{i}")
        nodes, constants = [*nodes, *activation_nodes, *weight_nodes, product], constants | activation | codes
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(groups)], ["y"], "sum"))
    shape = ["batch", "sequence", WIDTH]
    return save(path, nodes, [tensor("x", shape)], [tensor("y", shape)], constants)


def token_model(
    path: Path, *, quantized: bool = False, classes: Sequence[str] = (), broken: bool = False, vocabulary: int = 64
) -> Path:
    """input_ids, attention_mask → embeddings @ weight: token states [batch, sequence, WIDTH], or logits of `classes`.

    `quantized`: the MatMul in QDQ form, the table in int8 behind its Gather. `broken`: the outputs are NaN.
    """
    ids = [tensor(name, ["batch", "sequence"], TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    table = np.random.default_rng(7).normal(0, 1, (vocabulary, WIDTH)).astype(np.float32)
    nodes, constants = _embedded(table, quantized=quantized)
    if quantized:
        activation, more = quantized_activation("embedded", "operand")
        matrix, even_more = quantized_weight("weight", weight())
        nodes, constants = [*nodes, *activation, *matrix], constants | more | even_more
    else:
        constants["weight"] = weight()
    nodes.append(helper.make_node("MatMul", ["operand" if quantized else "embedded", "weight"], ["states"], "matmul"))
    constants["nothing"] = np.float32([np.nan if broken else 0])
    nodes.append(helper.make_node("Add", ["states", "nothing"], ["last_hidden_state"], "add"))
    output = tensor("last_hidden_state", ["batch", "sequence", WIDTH])
    if classes:
        constants["head"] = np.random.default_rng(3).normal(0, 1, (WIDTH, len(classes))).astype(np.float32)
        constants["axis"] = np.int64([1])
        nodes.append(helper.make_node("ReduceMean", ["last_hidden_state", "axis"], ["pooled"], "pool", keepdims=0))
        nodes.append(helper.make_node("MatMul", ["pooled", "head"], ["logits"], "head"))
        output = tensor("logits", ["batch", len(classes)])
    labels = json.dumps({str(i): name for i, name in enumerate(classes)})
    return save(path, nodes, ids, [output], constants, **({"id2label": labels} if classes else {}))


def _embedded(table: np.ndarray, *, quantized: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if not quantized:
        return [helper.make_node("Gather", ["table", "input_ids"], ["embedded"], "embed")], {"table": table}
    scale = np.float32(np.abs(table).max() / 127)
    constants = {
        "table": np.rint(table / scale).astype(np.int8),
        "table_scale": scale.reshape(()),
        "table_zero": np.int8(0).reshape(()),
    }
    gather = helper.make_node("Gather", ["table", "input_ids"], ["rows"], "embed")
    return [
        gather,
        helper.make_node("DequantizeLinear", ["rows", "table_scale", "table_zero"], ["embedded"]),
    ], constants
