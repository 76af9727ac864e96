"""Equal weights are stored once, tied heads as a Transpose of their table."""

import numpy as np

from qonnx_pipe.graph.passes.deduplicate import Deduplicate
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse

RANDOM = np.random.default_rng(5)
TABLE = RANDOM.normal(size=(7, 4)).astype(np.float32)
W = RANDOM.normal(size=(4, 4)).astype(np.float32)
X = RANDOM.normal(size=(2, 4)).astype(np.float32)
IDS = np.array([[1, 6, 0]], np.int64)
SHARED = "g (float[B,4] x) => (float[B,4] y) { a = MatMul(x, w1) y = MatMul(a, w2) }"
TIED = "g (int64[B,S] ids) => (float[B,S,7] y) { e = Gather(table, ids) y = MatMul(e, head) }"


def test_case_1_the_first_name_stays() -> None:
    model = check_rewrites(Deduplicate(), parse(SHARED, w1=W, w2=W.copy()), {"x": X})
    assert list(model.graph.initializers) == ["w1"]


def test_case_2_a_head_tied_to_the_embedding() -> None:
    model = parse(TIED, table=TABLE, head=np.ascontiguousarray(TABLE.T))
    check_rewrites(Deduplicate(), model, {"ids": IDS})
    assert list(model.graph.initializers) == ["table"]
    assert operators(model) == {"Gather": 1, "Transpose": 1, "MatMul": 1}


def test_a_symmetric_matrix_is_not_tied_to_itself() -> None:
    check_leaves(Deduplicate(), parse(SHARED.replace("w2", "w1"), w1=W + W.T))


def test_equal_bytes_of_another_shape_or_type_stay() -> None:
    text = "g (float[B,4] x) => (float[B,4] y, int32[4] z) { a = Add(x, w1) y = Add(a, w2) z = Identity(w3) }"
    zeros = np.zeros(4, np.float32)
    check_leaves(Deduplicate(), parse(text, w1=zeros, w2=zeros.reshape(1, 4), w3=zeros.view(np.int32)))


def test_different_weights_stay() -> None:
    check_leaves(Deduplicate(), parse(SHARED, w1=W, w2=np.nextafter(W, np.float32(9))))
    check_leaves(Deduplicate(), parse(TIED, table=TABLE, head=np.ascontiguousarray(-TABLE.T)))


def test_an_initializer_that_a_caller_can_override_stays() -> None:
    text = "g (float[B,4] x, float[4,4] w1) => (float[B,4] y) { a = MatMul(x, w1) y = MatMul(a, w2) }"
    check_leaves(Deduplicate(), parse(text, w1=W, w2=W.copy()))


def test_a_weight_that_is_an_output_stays() -> None:
    text = "g (float[B,4] x) => (float[B,4] y, float[4,4] w2) { a = MatMul(x, w1) y = MatMul(a, w2) }"
    check_leaves(Deduplicate(), parse(text, w1=W, w2=W.copy()))
