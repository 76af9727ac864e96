"""Constant Transpose, Cast and Identity disappear into the weight; what is shared or dynamic stays."""

import numpy as np

from qonnx_pipe.graph.passes.fold_weights import FoldWeights
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse

RANDOM = np.random.default_rng(2)
W = RANDOM.normal(size=(3, 4)).astype(np.float32)
X = RANDOM.normal(size=(2, 4)).astype(np.float32)
HEAD = "g (float[B,4] x) => (float[B,3] y) "


def test_case_1_transpose() -> None:
    model = parse(HEAD + "{ t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t) }", w=W)
    check_rewrites(FoldWeights(), model, {"x": X})
    assert operators(model) == {"MatMul": 1}
    np.testing.assert_array_equal(model.graph[0].inputs[1].const_value.numpy(), W.T)
    assert list(model.graph.initializers) == ["t"], "the value keeps its name, the old weight is gone"


def test_case_2_cast() -> None:
    model = parse(HEAD + "{ c = Cast <to = 1> (w) y = MatMul(x, c) }", w=W.T.astype(np.float16).copy())
    assert operators(check_rewrites(FoldWeights(), model, {"x": X})) == {"MatMul": 1}


def test_case_3_identity() -> None:
    text = "g (float[B,4] x) => (float[B,4] y) { i = Identity(b) a = Add(x, b) y = Add(a, i) }"
    model = check_rewrites(FoldWeights(), parse(text, b=X[0]), {"x": X})
    assert operators(model) == {"Add": 2}
    assert list(model.graph.initializers) == ["b"]


def test_case_4_chain() -> None:
    body = "{ i = Identity(w) t = Transpose <perm = [1, 0]> (i) c = Cast <to = 1> (t) y = MatMul(x, c) }"
    assert operators(check_rewrites(FoldWeights(), parse(HEAD + body, w=W), {"x": X})) == {"MatMul": 1}


def test_a_table_that_is_used_elsewhere_too_stays_stored_once() -> None:
    text = (
        "g (int64[B] ids) => (float[B,3] y) { e = Gather(w, ids) t = Transpose <perm = [1, 0]> (w) y = MatMul(e, t) }"
    )
    check_leaves(FoldWeights(), parse(text, w=W))


def test_an_output_stays() -> None:
    check_leaves(FoldWeights(), parse("g () => (float[4,3] y) { y = Transpose <perm = [1, 0]> (w) }", w=W))


def test_a_weight_that_a_caller_can_override_stays() -> None:
    text = "g (float[B,4] x, float[3,4] w) => (float[B,3] y) { t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t) }"
    check_leaves(FoldWeights(), parse(text, w=W))


def test_a_dynamic_transpose_stays() -> None:
    check_leaves(FoldWeights(), parse("g (float[B,4] x) => (float[4,B] y) { y = Transpose <perm = [1, 0]> (x) }"))
