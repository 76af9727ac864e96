"""Gelu in every form that exporters write it, and what only looks like it."""

import math

import numpy as np
import pytest

from qonnx_pipe.graph.passes.fuse_gelu import FuseGelu
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse, run

HEAD = "g (float[B,4] x) => (float[B,4] y) "
CONSTANTS = {
    "half": np.float32(0.5),
    "one": np.ones(1, np.float32),
    "two": np.float32(2),
    "three": np.float32(3),
    "root2": np.float32(math.sqrt(2)),
    "inverse_root2": np.float32(0.70710677),
    "k": np.float32(0.7978846),
    "c": np.float32(0.044715),
}
X = np.linspace(-6, 6, 40, dtype=np.float32).reshape(10, 4)

ERF = {
    "divided": "a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) y = Mul(d, half)",
    "multiplied": "a = Mul(inverse_root2, x) b = Erf(a) c1 = Add(one, b) d = Mul(c1, x) y = Mul(half, d)",
    "half first": "h = Mul(x, half) a = Div(x, root2) b = Erf(a) c1 = Add(b, one) y = Mul(h, c1)",
    "halved at the end": "a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) y = Div(d, two)",
    "half in the bracket": "a = Div(x, root2) b = Erf(a) c1 = Add(b, one) d = Mul(c1, half) y = Mul(x, d)",
    "multiplied out": "a = Div(x, root2) b = Erf(a) h = Mul(x, half) d = Mul(h, b) y = Add(d, h)",
}
GATE = "t = Tanh(q) u = Add(t, one) h = Mul(x, half) y = Mul(h, u)"
TANH = {
    "power": f"p = Pow(x, three) m = Mul(p, c) s = Add(x, m) q = Mul(s, k) {GATE}",
    "products": f"p = Mul(x, x) p3 = Mul(p, x) m = Mul(c, p3) s = Add(m, x) q = Mul(k, s) {GATE}",
    "factored out": f"p = Mul(x, x) m = Mul(p, c) s = Add(one, m) r = Mul(x, k) q = Mul(r, s) {GATE}",
}


def gelu(text: str, **options: int):
    return parse(HEAD + "{ " + text + " }", opset=options.get("opset", 20), **CONSTANTS)


@pytest.mark.parametrize("text", ERF.values(), ids=ERF)
def test_case_1_erf(text: str) -> None:
    model = check_rewrites(FuseGelu(), gelu(text), {"x": X})
    assert operators(model) == {"Gelu": 1}
    exact = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(X.astype(np.float64))
    np.testing.assert_allclose(run(model, {"x": X})["y"], exact, atol=1e-6)


@pytest.mark.parametrize("text", TANH.values(), ids=TANH)
def test_case_2_tanh(text: str) -> None:
    model = check_rewrites(FuseGelu(), gelu(text), {"x": X})
    assert operators(model) == {"Gelu": 1}
    assert model.graph[0].attributes["approximate"].as_string() == "tanh"


def test_the_last_node_gives_its_name() -> None:
    model = gelu(ERF["divided"])
    last = model.graph[-1].name
    FuseGelu()(model)
    assert [node.name for node in model.graph if node.op_type == "Gelu"] == [last]


@pytest.mark.parametrize(
    "text",
    [
        "a = Div(x, two) b = Erf(a) c1 = Add(b, one) d = Mul(x, c1) y = Mul(d, half)",
        "a = Div(x, root2) b = Erf(a) c1 = Sub(one, b) d = Mul(x, c1) y = Mul(d, half)",
        "a = Div(x, root2) b = Erf(a) c1 = Add(b, two) d = Mul(x, c1) y = Mul(d, half)",
        "a = Div(x, root2) b = Erf(a) c1 = Add(b, one) y = Mul(x, c1)",
        "a = Div(x, root2) b = Tanh(a) c1 = Add(b, one) d = Mul(x, c1) y = Mul(d, half)",
        f"p = Pow(x, two) m = Mul(p, c) s = Add(x, m) q = Mul(s, k) {GATE}",
        "a = Sigmoid(x) y = Mul(x, a)",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    check_leaves(FuseGelu(), gelu(text))


def test_before_opset_20_there_is_no_gelu() -> None:
    check_leaves(FuseGelu(), gelu(ERF["divided"], opset=19))


def test_the_input_of_another_gate_is_not_x() -> None:
    text = "a = Div(x, root2) b = Erf(a) c1 = Add(b, one) z = Add(x, one) d = Mul(z, c1) y = Mul(d, half)"
    check_leaves(FuseGelu(), gelu(text))


def test_an_inner_value_with_other_users_stays() -> None:
    text = "g (float[B,4] x) => (float[B,4] y, float[B,4] b) { " + ERF["divided"] + " }"
    model = check_rewrites(FuseGelu(), parse(text, opset=20, **CONSTANTS), {"x": X})
    assert operators(model) == {"Gelu": 1, "Div": 1, "Erf": 1}


def test_subgraphs_stay() -> None:
    text = (
        "g (float[B,4] x, bool test) => (float[B,4] y) { y = If (test) "
        "<then_branch = a () => (float[B,4] r) { s = Div(x, root2) b = Erf(s) c1 = Add(b, one) d = Mul(x, c1)"
        " r = Mul(d, half) }, else_branch = e () => (float[B,4] i) { i = Identity(x) }> }"
    )
    check_leaves(FuseGelu(), parse(text, opset=20, **CONSTANTS))
