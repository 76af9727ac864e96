"""Reshape → Gemm → Reshape, as GPT-2's Conv1D is traced, and what only looks like it."""

import numpy as np
import pytest

from qonnx_pipe.graph.passes.unflatten_gemm import UnflattenGemm
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse

IN, OUT = 4, 3
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(2, 5, IN)).astype(np.float32)
W = RANDOM.normal(size=(IN, OUT)).astype(np.float32)
CONSTANTS = {
    "w": W,
    "wt": np.ascontiguousarray(W.T),
    "bias": RANDOM.normal(size=OUT).astype(np.float32),
    "flat": np.array([-1, IN], np.int64),
    "zero": np.array(0, np.int64),
    "first": np.array([0], np.int64),
    "one": np.array(1, np.int64),
    "two": np.array([2], np.int64),
    "out": np.array([OUT], np.int64),
}
HEAD = f"g (float[B,S,{IN}] x) => (float[B,S,{OUT}] y) "
SHAPE = (
    "s = Shape(x) i = Gather(s, zero) j = Gather(s, one) a = Unsqueeze(i, first) b = Unsqueeze(j, first)"
    " t = Concat <axis = 0> (a, b, out) "
)
SLICED = "s = Shape(x) a = Slice(s, first, two) t = Concat <axis = 0> (a, out) "
GEMM = "f = Reshape(x, flat) m = Gemm(f, w, bias) y = Reshape(m, t)"


def linear(body: str):
    return parse(HEAD + "{ " + body + " }", **CONSTANTS)


@pytest.mark.parametrize("shape", [SHAPE, SLICED], ids=["gathered", "sliced"])
def test_case_1(shape: str) -> None:
    model = linear(shape + GEMM)
    gemm = next(node.name for node in model.graph if node.op_type == "Gemm")
    check_rewrites(UnflattenGemm(), model, {"x": X})
    assert operators(model) == {"MatMul": 1, "Add": 1}
    assert model.graph[0].name == gemm
    assert model.graph[0].inputs[1].name == "w"


def test_without_bias() -> None:
    model = check_rewrites(UnflattenGemm(), linear(SHAPE + GEMM.replace(", bias", "")), {"x": X})
    assert operators(model) == {"MatMul": 1}


def test_case_2_transposed_weight() -> None:
    body = SHAPE + GEMM.replace("Gemm(f, w,", "Gemm <transB = 1> (f, wt,")
    model = check_rewrites(UnflattenGemm(), linear(body), {"x": X})
    assert operators(model) == {"MatMul": 1, "Add": 1}
    assert tuple(model.graph[0].inputs[1].shape) == (IN, OUT)


@pytest.mark.parametrize(
    "body",
    [
        SHAPE + GEMM.replace("Gemm(", "Gemm <alpha = 0.5> ("),
        SHAPE + GEMM.replace("Gemm(", "Gemm <beta = 2.0> ("),
        SHAPE.replace("Concat <axis = 0> (a, b, out)", "Concat <axis = 0> (b, a, out)") + GEMM,
        "f = Reshape(x, flat) m = Gemm(f, w, bias) t = Expand(out, two) y0 = Shape(m)"
        " y1 = Reshape(m, y0) y = Unsqueeze(y1, first)",
    ],
    ids=["alpha", "beta", "other order", "no such shape"],
)
def test_what_only_looks_like_it_stays(body: str) -> None:
    check_leaves(UnflattenGemm(), linear(body))


def test_a_flat_value_that_is_used_elsewhere_stays() -> None:
    text = f"g (float[B,S,{IN}] x) => (float[B,S,{OUT}] y, float[N,{IN}] f) {{ {SHAPE + GEMM} }}"
    check_leaves(UnflattenGemm(), parse(text, **CONSTANTS))


def test_a_weight_that_is_no_constant_stays() -> None:
    text = f"g (float[B,S,{IN}] x, float[{IN},{OUT}] v) => (float[B,S,{OUT}] y) {{ {SHAPE + GEMM} }}"
    check_leaves(UnflattenGemm(), parse(text.replace("(f, w,", "(f, v,"), **CONSTANTS))
