"""LayerNormalization in every form that exporters write it, and what only looks like it."""

import numpy as np
import pytest

from qonnx_pipe.graph.passes.fuse_layer_norm import FuseLayerNorm
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse, run

D = 6
RANDOM = np.random.default_rng(7)
GAIN, BIAS = RANDOM.normal(1, 0.3, D).astype(np.float32), RANDOM.normal(0, 0.3, D).astype(np.float32)
X = RANDOM.normal(0.5, 2, (3, 5, D)).astype(np.float32)
EPSILON = 1e-5
CONSTANTS = {
    "axes": np.array([-1], np.int64),
    "last": np.array([2], np.int64),
    "middle": np.array([1], np.int64),
    "two": np.float32(2),
    "three": np.float32(3),
    "eps": np.float32(EPSILON),
    "gain": GAIN,
    "bias": BIAS,
    "number": np.ones(1, np.float32),
}
HEAD = f"g (float[B,S,{D}] x) => (float[B,S,{D}] y) "
MEAN = "m = ReduceMean(x, axes) d = Sub(x, m) "
POW = "q = Pow(d, two) v = ReduceMean(q, axes) "
ROOT = "e = Add(v, eps) r = Sqrt(e) n = Div(d, r) "
AFFINE = "s = Mul(n, gain) y = Add(s, bias)"
FORMS = {
    "power": MEAN + POW + ROOT + AFFINE,
    "product": MEAN + "q = Mul(d, d) v = ReduceMean(q, axes) " + ROOT + AFFINE,
    "reciprocal": MEAN + POW + "e = Add(eps, v) r = Sqrt(e) i = Reciprocal(r) n = Mul(i, d) " + AFFINE,
    "two differences": MEAN + "d2 = Sub(x, m) q = Pow(d2, two) v = ReduceMean(q, last) " + ROOT + AFFINE,
    "operands swapped": MEAN + POW + ROOT + "s = Mul(gain, n) y = Add(bias, s)",
}


def norm(body: str, opset: int = 18):
    return parse(HEAD + "{ " + body + " }", opset=opset, **CONSTANTS)


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_every_form_becomes_one_node(body: str) -> None:
    model = check_rewrites(FuseLayerNorm(), norm(body), {"x": X})
    assert operators(model) == {"LayerNormalization": 1}
    wide = X.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * GAIN + BIAS
    np.testing.assert_allclose(run(model, {"x": X})["y"], exact, atol=2e-6)


def test_without_bias() -> None:
    model = check_rewrites(FuseLayerNorm(), norm(MEAN + POW + ROOT + "y = Mul(n, gain)"), {"x": X})
    assert operators(model) == {"LayerNormalization": 1}
    assert len(model.graph[0].inputs) == 2


def test_the_sum_with_something_else_is_no_bias() -> None:
    model = check_rewrites(FuseLayerNorm(), norm(MEAN + POW + ROOT + "s = Mul(n, gain) y = Add(s, x)"), {"x": X})
    assert operators(model) == {"LayerNormalization": 1, "Add": 1}


def test_axes_as_an_attribute() -> None:
    body = FORMS["power"].replace("ReduceMean(x, axes)", "ReduceMean <axes = [-1]> (x)")
    body = body.replace("ReduceMean(q, axes)", "ReduceMean <axes = [-1]> (q)")
    assert operators(check_rewrites(FuseLayerNorm(), norm(body, opset=17), {"x": X})) == {"LayerNormalization": 1}


def test_an_inner_value_with_other_users_stays() -> None:
    text = f"g (float[B,S,{D}] x) => (float[B,S,{D}] y, float[B,S,1] v) {{ {FORMS['power']} }}"
    model = check_rewrites(FuseLayerNorm(), parse(text, opset=18, **CONSTANTS), {"x": X})
    assert operators(model) == {"LayerNormalization": 1, "ReduceMean": 2, "Sub": 1, "Pow": 1}


@pytest.mark.parametrize(
    "body",
    [
        FORMS["power"].replace("Pow(d, two)", "Pow(d, three)"),
        FORMS["power"].replace("Pow(d, two)", "Pow(x, two)"),
        FORMS["power"].replace("axes", "middle"),
        FORMS["power"].replace("Mul(n, gain)", "Mul(n, number)"),
        FORMS["power"].replace("Sub(x, m)", "Sub(m, x)"),
        FORMS["power"].replace("Div(d, r)", "Div(r, d)"),
        FORMS["power"].replace("Div(d, r)", "Div(x, r)"),
    ],
    ids=["cube", "no difference", "other axis", "one number as gain", "sign", "inverse", "not centred"],
)
def test_what_only_looks_like_it_stays(body: str) -> None:
    check_leaves(FuseLayerNorm(), norm(body))


def test_a_width_that_nobody_knows_stays() -> None:
    text = "g (float[B,S,D] x) => (float[B,S,D] y) { " + FORMS["power"] + " }"
    check_leaves(FuseLayerNorm(), parse(text, opset=18, **CONSTANTS))


def test_before_opset_17_there_is_no_such_operator() -> None:
    body = FORMS["power"].replace("ReduceMean(x, axes)", "ReduceMean <axes = [-1]> (x)")
    check_leaves(FuseLayerNorm(), norm(body.replace("ReduceMean(q, axes)", "ReduceMean <axes = [-1]> (q)"), opset=16))


def test_subgraphs_stay() -> None:
    body = FORMS["power"].replace("y = ", "r2 = ")
    text = (
        f"g (float[B,S,{D}] x, bool test) => (float[B,S,{D}] y) {{ y = If (test) <then_branch = a ()"
        f" => (float[B,S,{D}] r2) {{ {body} }}, else_branch = e () => (float[B,S,{D}] i) {{ i = Identity(x) }}> }}"
    )
    check_leaves(FuseLayerNorm(), parse(text, opset=18, **CONSTANTS))
