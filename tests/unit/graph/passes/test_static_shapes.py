"""Shape arithmetic that only copies becomes constant; what may differ at run time stays."""

import numpy as np
import pytest

from qonnx_pipe.graph.passes.static_shapes import StaticShapes
from tests.unit.graph.passes.contract import check_leaves, check_rewrites, operators, parse

CONSTANTS = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "first": np.array([0], np.int64),
    "ones": np.ones(3, np.int64),
    "minus": np.full(3, -1, np.int64),
    "h": np.array([2], np.int64),
    "w": np.array([3], np.int64),
    "many": np.array([-1], np.int64),
    "merged": np.array([6], np.int64),
}
X = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)
SIZES = "s = Shape(x) i = Gather(s, zero) j = Gather(s, one) b = Unsqueeze(i, first) l = Unsqueeze(j, first) "


def shape_of(model) -> list[int]:
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    return reshape.inputs[1].const_value.numpy().tolist()


def test_case_1_heads_are_split() -> None:
    body = SIZES + "t = Concat <axis = 0> (b, l, h, w) y = Reshape(x, t)"
    model = check_rewrites(
        StaticShapes(), parse(f"g (float[B,S,6] x) => (float[B,S,2,3] y) {{ {body} }}", **CONSTANTS), {"x": X}
    )
    assert operators(model) == {"Reshape": 1}
    assert shape_of(model) == [0, 0, 2, 3]


def test_case_1_a_size_from_elsewhere_becomes_minus_one() -> None:
    text = "g (float[B,S,6] x, float[C,7] z) => (float[B,C,M] y) {"
    body = "s = Shape(x) i = Gather(s, zero) b = Unsqueeze(i, first) r = Shape(z) k = Gather(r, zero)"
    body += " c = Unsqueeze(k, first) t = Concat <axis = 0> (b, c, w) y = Reshape(x, t) }"
    z = np.zeros((10, 7), np.float32)
    model = check_rewrites(StaticShapes(), parse(text + body, **CONSTANTS), {"x": X, "z": z})
    assert shape_of(model) == [0, -1, 3]


def test_case_2_minus_one_that_must_be_the_inputs_own_size() -> None:
    body = SIZES + "t = Concat <axis = 0> (b, many, h, w) y = Reshape(x, t)"
    model = parse(f"g (float[B,S,6] x) => (float[B,S,2,3] y) {{ {body} }}", **CONSTANTS)
    assert shape_of(check_rewrites(StaticShapes(), model, {"x": X})) == [0, 0, 2, 3]


def test_case_3_a_reshape_that_changes_nothing_goes() -> None:
    body = SIZES + "t = Concat <axis = 0> (b, l, merged) r = Reshape(x, t) y = Neg(r)"
    text = f"g (float[B,S,6] x) => (float[B,S,6] y) {{ {body} }}"
    constants = {**CONSTANTS, "merged": np.array([6], np.int64)}
    model = check_rewrites(StaticShapes(), parse(text, **constants), {"x": X})
    assert operators(model) == {"Neg": 1}


def test_case_4_expand_to_a_target_without_minus_one() -> None:
    body = "s = Shape(z) t = Identity(s) e = Equal(t, minus) k = Where(e, ones, t) y = Expand(x, k)"
    text = f"g (float[1,S,6] x, float[B,S,6] z) => (float[B,S,6] y) {{ {body} }}"
    model = check_rewrites(StaticShapes(), parse(text, **CONSTANTS), {"x": X[:1], "z": X})
    assert operators(model) == {"Shape": 1, "Identity": 1, "Expand": 1}


@pytest.mark.parametrize(
    "body",
    [
        "y = Reshape(x, t)",
        "s = Shape(x) u = Mul(s, ones) y = Reshape(x, u)",
        "s = Shape(x) u = Identity(s) y = Reshape <allowzero = 1> (x, u)",
    ],
    ids=["an input says it", "arithmetic", "zeros mean zero"],
)
def test_what_may_differ_at_run_time_stays(body: str) -> None:
    check_leaves(StaticShapes(), parse(f"g (float[B,S,6] x, int64[3] t) => (float[P,Q,R] y) {{ {body} }}", **CONSTANTS))


def test_two_sizes_of_unknown_origin_stay() -> None:
    body = "s = Shape(z) i = Gather(s, zero) j = Gather(s, one) b = Unsqueeze(i, first) l = Unsqueeze(j, first) "
    body += "t = Concat <axis = 0> (b, l, many) y = Reshape(x, t)"
    check_leaves(
        StaticShapes(), parse(f"g (float[B,S,6] x, float[C,E] z) => (float[C,E,R] y) {{ {body} }}", **CONSTANTS)
    )
