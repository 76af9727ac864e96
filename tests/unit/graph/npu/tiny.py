"""A tiny encoder with a classifier, as exporters write them: free shapes, a mask near −3.4e38, 1/√d on the scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper

from tests.zoo import graphs

D, HEADS, INNER, ROWS, CLASSES = 8, 2, 16, 50, 3
SHAPE = (2, 6)
FREE = ["batch", "sequence"]


@dataclass
class Encoder:
    """Writes one encoder of `layers`; the options are what may be unusual about it.

    `mask`: "added"; "where", chosen by a Where behind the scores; "none", read by nothing.
    `scaling`: "div" of the query by √d, "mul" of query and key, "behind" the product of these, "both": "div" and that.
    `bias`: whether linear layers have one. `norm_bias`: the same of LayerNormalizations.
    """

    layers: int = 1
    mask: str = "added"
    scaling: str = "div"
    bias: bool = True
    norm_bias: bool = True
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(4))

    def save(self, path: Path) -> Path:
        h = self.embedding()
        if self.mask != "none":
            self.padding()
        for layer in range(self.layers):
            h = self.layer(f"l{layer}", h)
        first = self.add("Gather", [h, self.const("first", np.int64(0))], "first_token", axis=1)
        pooled = self.add("Tanh", [self.gemm("pooler", first, D)], "pooled")
        self.gemm("logits", pooled, CLASSES)
        inputs = [graphs.tensor(name, FREE, TensorProto.INT64) for name in ("input_ids", "attention_mask")]
        outputs = [graphs.tensor(h, [*FREE, D]), graphs.tensor("logits", ["batch", CLASSES])]
        graphs.save(path, self.nodes, inputs, outputs, self.constants)
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
        return path

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def const(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name

    def random(self, name: str, *shape: int, mean: float = 0.0, deviation: float = 0.3) -> str:
        return self.const(name, self.rng.normal(mean, deviation, shape).astype(np.float32))

    def embedding(self) -> str:
        words = self.add("Gather", [self.random("words", ROWS, D, deviation=1), "input_ids"], "word")
        shape = self.add("Shape", ["input_ids"], "shape")
        length = self.add("Gather", [shape, self.const("axis", np.int64([1]))], "length")
        zero = self.const("zero", np.int64([0]))
        numbers = self.const("numbers", np.arange(ROWS)[None])
        places = self.add("Slice", [numbers, zero, length, self.const("axis", np.int64([1]))], "places")
        position = self.add("Gather", [self.random("positions", ROWS, D), places], "position")
        return self.norm("embedded", self.add("Add", [words, position], "sum"))

    def padding(self) -> str:
        axes = self.const("axes", np.int64([1, 2]))
        real = self.add("Cast", [self.add("Unsqueeze", ["attention_mask", axes], "wide")], "real", to=1)
        none = self.add("Sub", [self.const("one", np.float32(1)), real], "none")
        if self.mask == "where":
            return self.add("Cast", [none], "padding", to=TensorProto.BOOL)
        return self.add("Mul", [none, self.const("lowest", np.finfo(np.float32).min)], "padding")

    def norm(self, name: str, x: str) -> str:
        vectors = [self.random(f"{name}.gain", D, mean=1), *([self.random(f"{name}.shift", D)] * self.norm_bias)]
        return self.add("LayerNormalization", [x, *vectors], name)

    def linear(self, name: str, x: str, rows: int = D, columns: int = D) -> str:
        weight = self.random(f"{name}.w", rows, columns)
        if not self.bias:
            return self.add("MatMul", [x, weight], name)
        product = self.add("MatMul", [x, weight], f"{name}.mm")
        return self.add("Add", [product, self.random(f"{name}.b", columns)], name)

    def gemm(self, name: str, x: str, columns: int) -> str:
        """With its weight stored [out, in]."""
        return self.add(
            "Gemm", [x, self.random(f"{name}.w", columns, D), self.random(f"{name}.b", columns)], name, transB=1
        )

    def heads(self, name: str, x: str, *order: int) -> str:
        split = self.const("split", np.int64([0, 0, HEADS, D // HEADS]))
        return self.add("Transpose", [self.add("Reshape", [x, split], f"{name}.split")], f"{name}.heads", perm=order)

    def attention(self, name: str, x: str) -> str:
        q = self.heads(f"{name}.q", self.linear(f"{name}.q", x), 0, 2, 1, 3)
        k = self.heads(f"{name}.k", self.linear(f"{name}.k", x), 0, 2, 3, 1)
        v = self.heads(f"{name}.v", self.linear(f"{name}.v", x), 0, 2, 1, 3)
        if self.scaling in ("div", "both"):
            q = self.add("Div", [q, self.const("root", np.float32(2))], f"{name}.scaled")
        elif self.scaling == "mul":
            half = self.const("fourth_root", np.float32(0.5**0.5))
            q, k = self.add("Mul", [half, q], f"{name}.scaled"), self.add("Mul", [k, half], f"{name}.k_scaled")
        scores = self.add("MatMul", [q, k], f"{name}.s")
        if self.scaling in ("behind", "both"):
            scores = self.add("Mul", [scores, self.const("half", np.float32(0.5))], f"{name}.halved")
        if self.mask == "added":
            scores = self.add("Add", [scores, "padding"], f"{name}.masked")
        elif self.mask == "where":
            low = self.const("low", np.float32(-1e9))
            scores = self.add("Where", ["padding", low, scores], f"{name}.masked")
        p = self.add("Softmax", [scores], f"{name}.p")
        turned = self.add("Transpose", [self.add("MatMul", [p, v], f"{name}.c")], f"{name}.turned", perm=[0, 2, 1, 3])
        return self.add("Reshape", [turned, self.const("join", np.int64([0, 0, D]))], f"{name}.context")

    def layer(self, name: str, h: str) -> str:
        u = self.add("Add", [self.linear(f"{name}.out", self.attention(name, h)), h], f"{name}.u")
        x = self.norm(f"{name}.x", u)
        a = self.add("Gelu", [self.linear(f"{name}.up", x, D, INNER)], f"{name}.a")
        y = self.add("Add", [self.linear(f"{name}.h", a, INNER, D), x], f"{name}.y")
        return self.norm(f"{name}.z", y)


def inputs(seed: int = 0, shape: tuple[int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Ids, and a mask that pads every row but the first; the last row has one token."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(shape[1], 1, shape[0]).astype(int)
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(0, ROWS, shape) * mask, "attention_mask": mask}


def run(path: Path, feeds: dict[str, np.ndarray], *seen: str) -> dict[str, np.ndarray]:
    """Outputs by name, with the tensors `seen`; onnxruntime changes nothing of the graph."""
    model = onnx.load(path)
    known = {port.name for port in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in seen if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feeds), strict=True))


def kept(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The rows [tokens, d] that a mask keeps: what stands at padding means nothing."""
    return values[mask.astype(bool)] if values.ndim == 3 else values
