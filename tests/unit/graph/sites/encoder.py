"""A tiny encoder written by hand, whose parts can be taken away or written in other ways."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from tests.zoo import graphs

D, HEADS, INNER, ROWS = 8, 2, 16, 50
SHAPE = ["batch", "sequence", D]


@dataclass
class Encoder:
    """Writes one encoder; `without` and `mask` choose what is unusual about it.

    `without`: "attention_sum", "attention_norm", "ffn", "ffn_sum", "output_norm", "norm_of_embedding".
    `mask`: "add", "where", or "flat" as in DeBERTa: scores [batch · heads, query, key], reshaped after the Softmax.
    """

    layers: int = 1
    prenorm: bool = False
    without: str = ""
    mask: str = "add"
    gelu: str = "fused"
    source: str = "self"
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: Path, *, shapes: bool = True) -> Path:
        h = self.embedding()
        for layer in range(self.layers):
            h = self.layer(f"l{layer}", h)
        if self.prenorm:
            h = self.norm("final", h)
        self.add("Identity", [h], "states")
        inputs = [graphs.tensor("ids", ["batch", "sequence"], TensorProto.INT64), graphs.tensor("mask", ["s"])]
        inputs += [graphs.tensor("memory", SHAPE)] if self.source == "cross" else []
        graphs.save(path, self.nodes, inputs, [graphs.tensor("states", SHAPE)], self.constants)
        if shapes:
            onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
        return path

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def const(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name

    def linear(self, name: str, x: str, rows: int = D, columns: int = D) -> str:
        weight = self.const(f"{name}.w", np.full((rows, columns), hash_of(name), np.float32))
        product = self.add("MatMul", [x, weight], f"{name}.mm")
        return self.add("Add", [product, self.const(f"{name}.b", np.zeros(columns, np.float32))], name)

    def norm(self, name: str, x: str) -> str:
        vectors = [self.const(f"{name}.{part}", np.ones(D, np.float32)) for part in ("gain", "shift")]
        return self.add("LayerNormalization", [x, *vectors], name)

    def embedding(self) -> str:
        table = self.const("words", np.ones((ROWS, D), np.float32))
        rows = self.add("Gather", [table, "ids"], "rows")
        summed = self.add("Add", [rows, self.const("positions", np.ones((1, D), np.float32))], "sum")
        if self.prenorm:
            return summed
        return summed if self.without == "norm_of_embedding" else self.norm("embedded", summed)

    def heads(self, name: str, x: str, *order: int) -> str:
        split = self.const("split", np.int64([0, 0, HEADS, D // HEADS]))
        turned = self.add("Transpose", [self.add("Reshape", [x, split], f"{name}.split")], f"{name}.heads", perm=order)
        if self.mask != "flat":
            return turned
        last = D // HEADS if order[3] == 3 else -1
        flat = self.const(f"flat{last}", np.int64([-1, *((D // HEADS, 0) if last == -1 else (0, last))]))
        return self.add("Reshape", [turned, flat], f"{name}.flat")

    def layer(self, name: str, h: str) -> str:
        x = self.norm(f"{name}.before", h) if self.prenorm else h
        out = self.linear(f"{name}.out", self.attention(name, x))
        u = out if self.without == "attention_sum" else self.add("Add", [out, h], f"{name}.u")
        f = u if self.without == "attention_norm" else self.norm(f"{name}.x", u)
        if self.without == "ffn":
            return f
        y = self.ffn(name, f)
        y = y if self.without == "ffn_sum" else self.add("Add", [y, u if self.prenorm else f], f"{name}.y")
        return y if self.prenorm or self.without == "output_norm" else self.norm(f"{name}.z", y)

    def attention(self, name: str, x: str) -> str:
        memory = "memory" if self.source == "cross" else x
        q = self.heads(f"{name}.q", self.linear(f"{name}.q", x), 0, 2, 1, 3)
        k = self.heads(f"{name}.k", self.linear(f"{name}.k", memory), 0, 2, 3, 1)
        v = self.heads(f"{name}.v", self.linear(f"{name}.v", memory), 0, 2, 1, 3)
        scaled = self.add("Mul", [self.const("scale", np.float32(0.5)), q], f"{name}.scaled")
        scores = self.add("MatMul", [scaled, k], f"{name}.s")
        if self.mask == "where":
            is_padding = self.add("Cast", ["mask"], f"{name}.padding", to=TensorProto.BOOL)
            masked = self.add("Where", [is_padding, self.const("low", np.float32(-1e9)), scores], f"{name}.masked")
        else:
            masked = self.add("Add", ["mask", scores], f"{name}.masked")
        p = self.add("Softmax", [masked], f"{name}.p")
        if self.mask == "flat":
            p = self.add("Reshape", [p, self.const("same", np.int64([0, 0, -1]))], f"{name}.p3")
        context = self.add("MatMul", [p, v], f"{name}.c")
        if self.mask == "flat":
            four = self.const("four", np.int64([-1, HEADS, 0, D // HEADS]))
            context = self.add("Reshape", [context, four], f"{name}.c4")
        turned = self.add("Transpose", [context], f"{name}.turned", perm=[0, 2, 1, 3])
        return self.add("Reshape", [turned, self.const("join", np.int64([0, 0, D]))], f"{name}.context")

    def ffn(self, name: str, x: str) -> str:
        h = self.linear(f"{name}.up", x, D, INNER)
        if self.gelu == "written_out":
            half, one = self.const("half", np.float32(0.5)), self.const("one", np.float32(1))
            erf = self.add("Erf", [self.add("Mul", [h, half], f"{name}.half")], f"{name}.erf")
            h = self.add("Mul", [h, self.add("Add", [one, erf], f"{name}.plus")], f"{name}.a")
        else:
            h = self.add("Gelu", [h], f"{name}.a")
        return self.linear(f"{name}.down", h, INNER, D)


def hash_of(name: str) -> float:
    """A number that tells the weights apart."""
    return sum(map(ord, name)) / 1000
