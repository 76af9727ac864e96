"""Permuted dimensions change no result, stand where they should, and cost a Gather only where nothing can take them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qonnx_pipe.graph import io
from qonnx_pipe.graph.passes.infer_shapes import InferShapes
from qonnx_pipe.graph.permute import Permuted, permute
from tests.zoo import graphs

D, INNER, ROWS, CLASSES = 12, 20, 30, 3
ORDERS = [tuple(np.random.default_rng(seed).permutation(D).tolist()) for seed in range(3)]
IDS = np.random.default_rng(9).integers(0, ROWS, (2, 5))
STREAM = ("a", "u", "x", "h", "y", "z")


def block(layer: int, source: str, constants: dict, *, shared: bool) -> list:
    """u = source + (source·A + a), x = norm(u), y = x + FFN(x), z = norm(y); names carry the layer."""
    rng = np.random.default_rng(0 if shared else layer)
    own = "" if shared else str(layer)
    for name, shape in (("A", (D, D)), ("W1", (D, INNER)), ("W2", (INNER, D))):
        constants[f"{name}{own}"] = rng.normal(0, 0.3, shape).astype(np.float32)
    for name, size in (("a", D), ("b1", INNER), ("b2", D), ("g1", D), ("s1", D), ("g2", D), ("s2", D)):
        constants[f"c_{name}{own}"] = rng.normal(1, 0.3, size).astype(np.float32)
    of = dict.fromkeys(("A", "W1", "W2"), "") | {name: f"{name}{layer}" for name in STREAM}
    c = {name: f"c_{name}{own}" for name in ("a", "b1", "b2", "g1", "s1", "g2", "s2")}
    return [
        helper.make_node("MatMul", [source, f"A{own}"], [f"pa{layer}"], f"attend{layer}"),
        helper.make_node("Add", [f"pa{layer}", c["a"]], [of["a"]], f"bias_a{layer}"),
        helper.make_node("Add", [of["a"], source], [of["u"]], f"sum_u{layer}"),
        helper.make_node("LayerNormalization", [of["u"], c["g1"], c["s1"]], [of["x"]], f"norm_x{layer}"),
        helper.make_node("MatMul", [of["x"], f"W1{own}"], [f"p1{layer}"], f"first{layer}"),
        helper.make_node("Add", [c["b1"], f"p1{layer}"], [f"f{layer}"], f"bias_1{layer}"),
        helper.make_node("Gelu", [f"f{layer}"], [f"g{layer}"], f"gelu{layer}"),
        helper.make_node("MatMul", [f"g{layer}", f"W2{own}"], [f"p2{layer}"], f"second{layer}"),
        helper.make_node("Add", [f"p2{layer}", c["b2"]], [of["h"]], f"bias_2{layer}"),
        helper.make_node("Add", [of["h"], of["x"]], [of["y"]], f"sum_y{layer}"),
        helper.make_node("LayerNormalization", [of["y"], c["g2"], c["s2"]], [of["z"]], f"norm_z{layer}"),
    ]


def network(
    path: Path, *, shown: bool = False, tied: bool = False, odd: bool = False, shared: bool = False
) -> io.Model:
    """ids → table → norm → two blocks → the first token → a transposed Gemm: logits.

    `shown`: the hidden state is an output too. `tied`: a head reads the table. `odd`: a Softmax reads the first x.
    """
    rng = np.random.default_rng(7)
    constants = {
        "table": rng.normal(0, 1, (ROWS, D)).astype(np.float32),
        "places": rng.normal(0, 1, (1, 5, D)).astype(np.float32),
        "gain": rng.normal(1, 0.3, D).astype(np.float32),
        "zero": np.int64(0),
        "head": rng.normal(0, 1, (CLASSES, D)).astype(np.float32),
        "offset": rng.normal(0, 1, CLASSES).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"], "words"),
        helper.make_node("Add", ["words", "places"], ["e"], "embed"),
        helper.make_node("LayerNormalization", ["e", "gain"], ["z"], "norm"),
        *block(0, "z", constants, shared=shared),
        *block(1, "z0", constants, shared=shared),
        helper.make_node("Gather", ["z1", "zero"], ["first_token"], "first_token", axis=1),
        helper.make_node("Gemm", ["first_token", "head", "offset"], ["logits"], "classify", transB=1),
    ]
    outputs = [graphs.tensor("logits", ["batch", CLASSES])]
    outputs += [graphs.tensor("z1", ["batch", "sequence", D])] if shown else []
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["z1", "turned"], ["words_again"], "tied_head"))
        outputs.append(graphs.tensor("words_again", ["batch", "sequence", ROWS]))
    if odd:
        nodes.append(helper.make_node("Softmax", ["x0"], ["odd"], "odd", axis=-1))
        outputs.append(graphs.tensor("odd", ["batch", "sequence", D]))
    ids = graphs.tensor("ids", ["batch", "sequence"], TensorProto.INT64)
    model = io.load(graphs.save(path, nodes, [ids], outputs, constants))
    InferShapes()(model)
    return model


def run(model: io.Model, path: Path, *inner: str) -> dict[str, np.ndarray]:
    """Outputs by name, and values inside."""
    io.save(model, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    have = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in have)
    opened = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {"ids": IDS}), strict=True))


def by_layer(*orders: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}{layer}": order for layer, order in enumerate(orders) for name in STREAM}


def gathers(model: io.Model) -> int:
    return sum(str(node.name).endswith("_reordered") for node in model.graph)


CASES = {
    "one order": ({}, by_layer(ORDERS[0], ORDERS[0]), ()),
    "one order, hidden state shown": ({"shown": True}, by_layer(ORDERS[0], ORDERS[0]), ("y1",)),
    "one a layer": ({}, by_layer(ORDERS[0], ORDERS[1]), ("z0",)),
    "one a layer, shown": ({"shown": True}, by_layer(ORDERS[0], ORDERS[1]), ("z0", "y1")),
    "one layer alone": ({}, by_layer(ORDERS[2]), ()),
    "a tied table": ({"tied": True}, by_layer(ORDERS[0], ORDERS[0]), ("words", "z1")),
    "an odd reader": ({"odd": True}, by_layer(ORDERS[0], ORDERS[0]), ("x0",)),
    "shared weights": ({"shared": True}, by_layer(ORDERS[0], ORDERS[0]), ()),
    "shared weights, two orders": ({"shared": True}, by_layer(ORDERS[0], ORDERS[1]), ("z0",)),
}


@pytest.mark.parametrize(("options", "wanted", "moved"), CASES.values(), ids=CASES.keys())
def test_results_stay_and_dimensions_stand_where_they_should(tmp_path, options, wanted, moved):
    inner = ("words", "z", "u0", "x0", "h0", "y0", "z0", "x1", "h1", "y1", "z1", "first_token")
    before = run(network(tmp_path / "m.onnx", **options), tmp_path / "before.onnx", *inner)
    model = network(tmp_path / "m.onnx", **options)
    found = permute(model, wanted)
    after = run(model, tmp_path / "after.onnx", *inner)
    for name, values in before.items():
        expected = values[..., list(found.orders[name])] if name in found.orders else values
        np.testing.assert_allclose(after[name], expected, atol=2e-5)  # float32 sums of 20 products, another order
    assert sorted(found.gathers) == sorted(moved)
    assert gathers(model) == len(moved)
    shown = {"z1"} if options.get("shown") else set()
    assert {name: found.orders[name] for name in wanted if name not in shown} == {
        name: order for name, order in wanted.items() if name not in shown
    }
    assert shown.isdisjoint(found.orders)


def test_constants_are_reordered_not_added_to(tmp_path):
    plain = network(tmp_path / "m.onnx")
    run(plain, tmp_path / "before.onnx")
    model = network(tmp_path / "m.onnx")
    permute(model, by_layer(ORDERS[0], ORDERS[0]))
    run(model, tmp_path / "after.onnx")

    def shapes(name):
        return sorted(tuple(one.dims) for one in onnx.load(tmp_path / name).graph.initializer)

    assert shapes("after.onnx") == shapes("before.onnx")
    nodes = [[node.op_type for node in onnx.load(tmp_path / name).graph.node] for name in ("before.onnx", "after.onnx")]
    assert nodes[0] == nodes[1]


def test_a_weight_of_two_readers_is_copied_where_their_orders_differ(tmp_path):
    """The next layer reads in the old order and answers in the new one."""
    model = network(tmp_path / "m.onnx", shared=True)
    permute(model, by_layer(ORDERS[0], ORDERS[1]))
    io.save(model, tmp_path / "after.onnx")
    initial = {one.name: numpy_helper.to_array(one) for one in onnx.load(tmp_path / "after.onnx").graph.initializer}
    readers = {node.name: node.input[-1] for node in onnx.load(tmp_path / "after.onnx").graph.node}
    original = network(tmp_path / "m.onnx", shared=True).graph.initializers["W1"].const_value.numpy()
    for layer in (0, 1):
        np.testing.assert_array_equal(initial[readers[f"first{layer}"]], original[list(ORDERS[layer])])


@pytest.mark.parametrize("wanted", [{}, {"ids": ORDERS[0]}, {"nowhere": ORDERS[0]}, {"logits": (2, 0, 1)}])
def test_what_cannot_have_an_order_keeps_its_own(tmp_path, wanted):
    model = network(tmp_path / "m.onnx")
    assert permute(model, wanted) == Permuted({}, ())
    run(model, tmp_path / "after.onnx")
    run(network(tmp_path / "m.onnx"), tmp_path / "before.onnx")
    assert (tmp_path / "after.onnx").read_bytes() == (tmp_path / "before.onnx").read_bytes()


def test_a_second_call_with_the_inverse_undoes_the_first(tmp_path):
    model = network(tmp_path / "m.onnx")
    permute(model, by_layer(ORDERS[0], ORDERS[0]))
    permute(model, by_layer(*2 * [tuple(np.argsort(ORDERS[0]).tolist())]))
    inner = ("x0", "y1", "first_token")
    before = run(network(tmp_path / "m.onnx"), tmp_path / "before.onnx", *inner)
    for name, values in run(model, tmp_path / "after.onnx", *inner).items():
        np.testing.assert_array_equal(values, before[name])  # every constant is as it was
