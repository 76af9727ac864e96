"""A tiny float model, a plan written by hand, the quantized file, what it computes and which kernels ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from qonnx_pipe.core.encoding import EmbeddingGroups, Encoding
from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.kernels import Kernels, executed
from qonnx_pipe.core.numerics import fake_quantize, scale_and_zero_point
from qonnx_pipe.core.numerics import quantize as codes_of
from qonnx_pipe.core.plan import Lowering, PlanEntry, QuantPlan
from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.core.spec import QuantSpec
from qonnx_pipe.graph import io
from qonnx_pipe.graph.linears import linears
from qonnx_pipe.graph.quantize import quantize
from qonnx_pipe.runtime.census import profile
from tests.zoo import graphs

WIDTH, OUT = 32, 24
EPSILON = 2.0**-24
INT8 = QuantSpec(QTYPES["int8"], PerChannel(1), True)
UINT8 = QuantSpec(QTYPES["uint8"], PerTensor(), False)


def outliers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal data with two embedding dimensions that are 40 times as wide, and off centre."""
    x = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    x[..., 5] *= 40
    x[..., 20] = 40 * x[..., 20] + 15
    return x


def per_tensor(values: np.ndarray, dtype: str = "uint8", *, symmetric: bool = False) -> Encoding:
    kind = QTYPES[dtype]
    return Encoding(kind, PerTensor(), *scale_and_zero_point(values.min(), values.max(), kind, symmetric=symmetric))


def per_group(
    values: np.ndarray, sizes: Sequence[int], order: Sequence[int] | None = None, dtype: str = "uint8"
) -> Encoding:
    kind, order = QTYPES[dtype], tuple(range(values.shape[-1])) if order is None else tuple(order)
    ends = np.cumsum(sizes)
    groups = [values[..., list(order[end - size : end])] for size, end in zip(sizes, ends, strict=True)]
    low, high = [group.min() for group in groups], [group.max() for group in groups]
    layout = EmbeddingGroups(tuple(sizes), order)
    return Encoding(kind, layout, *scale_and_zero_point(low, high, kind, symmetric=False))


def encode(entry: PlanEntry, weight: np.ndarray) -> tuple[Encoding, np.ndarray]:
    """Min-max encoding of a weight, as the entry's spec says."""
    spec = entry.spec
    if isinstance(spec.granularity, PerGroup):
        axis, size = spec.granularity.axis, spec.granularity.size
        blocks = weight.reshape(*weight.shape[:axis], -1, size, *weight.shape[axis + 1 :])
        bounds = blocks.min(axis + 1), blocks.max(axis + 1)
    else:
        axes = {PerTensor(): None, PerChannel(0): 1, PerChannel(1): 0}[spec.granularity]
        bounds = weight.min(axes), weight.max(axes)
    encoding = Encoding(
        spec.dtype, spec.granularity, *scale_and_zero_point(*bounds, spec.dtype, symmetric=spec.symmetric)
    )
    return encoding, codes_of(weight, encoding)


def activation(tensor: str, *feeds: str, spec: QuantSpec | None = UINT8, width: int = WIDTH) -> PlanEntry:
    return PlanEntry(Site(tensor, Role.LINEAR_INPUT, None, tensor, width, feeds), spec, "qdq", "test")


def weight(tensor: str, *feeds: str, spec: QuantSpec | None = INT8, lowering: Lowering = "qdq") -> PlanEntry:
    return PlanEntry(Site(f"weight[{tensor}]", Role.WEIGHT, None, tensor, OUT, feeds), spec, lowering, "test")


def table(tensor: str, *feeds: str, spec: QuantSpec, lowering: Lowering = "gather_dq") -> PlanEntry:
    return PlanEntry(Site("embedding.word", Role.EMBEDDING_WORD, None, tensor, WIDTH, feeds), spec, lowering, "test")


@dataclass
class Layers:
    """`readers` linear layers of one form that read x: y0, y1, …, with their weights [in, out] and biases."""

    form: str
    readers: int = 1
    opset: int = 21
    shared: bool = False
    weights: list[np.ndarray] = field(init=False)
    biases: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(1)
        draw = [rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32) for _ in range(self.readers)]
        self.weights = [draw[0 if self.shared else i] for i in range(self.readers)]
        biased = self.form not in ("matmul", "gemm_plain")
        self.biases = [rng.normal(0, biased, OUT).astype(np.float32) for _ in range(self.readers)]

    @property
    def is_gemm(self) -> bool:
        """Whether onnxruntime runs it as a Gemm: rank 2."""
        return self.form.startswith("gemm") or self.form.endswith("rank_2")

    def x(self, seed: int = 0) -> np.ndarray:
        return outliers(*((7, WIDTH) if self.is_gemm else (2, 7, WIDTH)), seed=seed)

    def save(self, path: Path) -> Path:
        nodes, constants = [], {}
        for i, (matrix, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            name = "w0" if self.shared else f"w{i}"
            constants[name] = np.ascontiguousarray(matrix.T) if self.form == "gemm_transposed" else matrix
            product = f"product{i}" if self.form.startswith("matmul_add") else f"y{i}"
            if self.form.startswith("gemm"):
                extra = [] if self.form == "gemm_plain" else [f"bias{i}"]
                flag = {"transB": 1} if self.form == "gemm_transposed" else {}
                nodes.append(helper.make_node("Gemm", ["x", name, *extra], [product], f"linear{i}", **flag))
            else:
                nodes.append(helper.make_node("MatMul", ["x", name], [product], f"linear{i}"))
            if self.form not in ("matmul", "gemm_plain"):
                constants[f"bias{i}"] = bias
            if self.form.startswith("matmul_add"):
                nodes.append(helper.make_node("Add", [f"bias{i}", product], [f"y{i}"], f"add{i}"))
        batch = ["batch"] if self.is_gemm else ["batch", "sequence"]
        outputs = [graphs.tensor(f"y{i}", [*batch, OUT]) for i in range(self.readers)]
        return graphs.save(path, nodes, [graphs.tensor("x", [*batch, WIDTH])], outputs, constants, kept="yes")

    def plan(
        self, spec: QuantSpec | None = UINT8, weight_spec: QuantSpec | None = INT8, lowering: Lowering = "qdq"
    ) -> QuantPlan:
        names = [f"linear{i}" for i in range(self.readers)]
        users = {"w0": names} if self.shared else {f"w{i}": [name] for i, name in enumerate(names)}
        entries = [weight(tensor, *feeds, spec=weight_spec, lowering=lowering) for tensor, feeds in users.items()]
        return QuantPlan("cpu", "matmul_inputs", (activation("x", *names, spec=spec), *entries))

    def expected(self, i: int, x: np.ndarray, coding: Encoding | None, weight_spec: QuantSpec = INT8):
        """(ŷ, bound): x̂·ŵ + b in float64, and the largest error that float32 can make of it.

        Any order of summation of n products errs by at most n·ε·Σ|x̂ŵ| (Higham, Accuracy and Stability, §3.1); four
        more roundings: two scales, their product, the bias.
        """
        w = known_weight(self.weights[i], coding, weight_spec)
        seen = (x if coding is None else fake_quantize(x, coding)).astype(np.float64)
        bound = (WIDTH + 4) * EPSILON * (np.abs(seen) @ np.abs(w) + np.abs(self.biases[i]) + displaced(coding, w))
        return seen @ w + self.biases[i], bound


def many_groups(coding: Encoding | None) -> bool:
    """Whether the groups are too many for a MatMul each, so that the rows of the weight take the scales."""
    return coding is not None and isinstance(coding.granularity, EmbeddingGroups) and coding.scale.size > 16


def known_weight(matrix: np.ndarray, coding: Encoding | None, spec: QuantSpec = INT8) -> np.ndarray:
    """What a weight [in, out] is once quantized, float64, behind an activation coded so."""
    rows = np.ones((len(matrix), 1), np.float32)
    if many_groups(coding):
        rows = coding.scale[coding.granularity.group_of_dimension()][:, None]
    encoding, codes = encode(weight("w", spec=spec), matrix * rows)
    return (codes.astype(np.int64) - encoding.zero_point) * encoding.scale.astype(np.float64) / rows


def displaced(coding: Encoding | None, w: np.ndarray) -> np.ndarray:
    """How much of each output codes around 128 read too much or too little, which the bias takes out again."""
    if not many_groups(coding):
        return np.zeros(w.shape[1])
    group = coding.granularity.group_of_dimension()
    return np.abs((coding.zero_point[group] - 128) * coding.scale[group].astype(np.float64)) @ np.abs(w)


def quantized(source: Path, plan: QuantPlan, activations: Mapping[str, Encoding]) -> Path:
    """The file that `graph.quantize` makes of `source`: checked, with shapes inferred strictly."""
    model = io.load(source)
    quantize(model, plan, activations, encode)
    target = source.with_name(f"{source.stem}-quantized.onnx")
    io.save(model, target)
    proto = onnx.load(target)
    onnx.checker.check_model(proto, full_check=True)
    return target


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, inputs)


def kernels(path: Path, **inputs: np.ndarray) -> Kernels:
    """What onnxruntime ran for every weight MatMul of the file."""
    folder = path.parent / f"{path.stem}-profile"
    folder.mkdir()
    seen = profile(path, inputs, folder, runs=1)
    assert seen.optimized is not None
    return executed(linears(path), linears(seen.optimized), seen.events)
