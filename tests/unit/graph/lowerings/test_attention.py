"""Attention becomes one operator wherever that computes the same, and stays as it is everywhere else."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qonnx_pipe.core.numerics import sqnr_db
from qonnx_pipe.graph import io
from qonnx_pipe.graph.lowerings.attention import OPSET, fuse_attention, share_sums
from qonnx_pipe.graph.lowerings.emit import Emitter
from tests.unit.graph.lowerings.tiny import run
from tests.zoo import graphs

WIDTH, HEADS, SIZE = 32, 2, 16
KEY, QUERY = [0, 2, 3, 1], [0, 2, 1, 3]
LEAST = float(np.finfo(np.float32).min)
CLOSE_DB = 110
"""float32 has 24 bits, 144 dB; a softmax and two sums in another order cost a few of them."""


def weight(name, *, seed, bias, zero):
    """Codes, a scale a column, and where asked for a bias and zero points."""
    rng = np.random.default_rng(seed)
    made = {
        f"{name}_w": rng.integers(-127, 127, (WIDTH, WIDTH)).astype(np.int8),
        f"{name}_s": rng.uniform(0.001, 0.003, WIDTH).astype(np.float32),
        f"{name}_z": rng.integers(-9, 9, WIDTH).astype(np.int8),
        f"{name}_b": rng.normal(0, 0.5, WIDTH).astype(np.float32),
    }
    return {key: array for key, array in made.items() if (zero or key[-1] != "z") and (bias or key[-1] != "b")}


def least(constants):
    """(1 - mask)·least, as [batch, 1, 1, key]."""
    constants |= {"axes": np.int64([1, 2]), "one": np.float32(1), "least": np.float32(LEAST), "end": np.int64([1])}
    return [
        helper.make_node("Unsqueeze", ["mask", "axes"], ["mask4"], "m0"),
        helper.make_node("Cast", ["mask4"], ["real"], "m1", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "real"], ["away"], "m2"),
        helper.make_node("Mul", ["away", "least"], ["bias"], "m3"),
    ]


def infinite(constants):
    """Where(mask = 0, -inf, 0), expanded over the queries."""
    constants |= {"axes1": np.int64([1]), "axes2": np.int64([-2]), "none": np.int64(0), "nought": np.float32(0)}
    constants |= {"far": np.float32(-np.inf), "end": np.int64([1])}
    return [
        helper.make_node("Unsqueeze", ["mask", "axes1"], ["mask3"], "m0"),
        helper.make_node("Unsqueeze", ["mask3", "axes2"], ["mask4"], "m1"),
        helper.make_node("Shape", ["mask"], ["sizes"], "m2"),
        helper.make_node("Shape", ["mask"], ["length"], "m2b", start=1),
        helper.make_node("Shape", ["mask"], ["batch_size"], "m2c", end=1),
        helper.make_node("Concat", ["batch_size", "end", "length", "length"], ["target"], "m3", axis=0),
        helper.make_node("Expand", ["mask4", "target"], ["square"], "m4"),
        helper.make_node("Equal", ["square", "none"], ["masked"], "m5"),
        helper.make_node("Where", ["masked", "far", "nought"], ["bias"], "m6"),
    ]


def late(constants):
    """`least`, expanded over the queries at its end."""
    *nodes, last = least(constants)
    last.output[0] = "narrow"
    return [
        *nodes,
        last,
        helper.make_node("Shape", ["mask"], ["length"], "m4", start=1),
        helper.make_node("Shape", ["mask"], ["batch_size"], "m5", end=1),
        helper.make_node("Concat", ["batch_size", "end", "length", "length"], ["target"], "m6", axis=0),
        helper.make_node("Expand", ["narrow", "target"], ["bias"], "m7"),
    ]


def causal(constants):
    """The mask of a decoder."""
    constants |= {"axes": np.int64([1, 2]), "none": np.int64(0), "nought": np.float32(0), "far": np.float32(LEAST)}
    constants |= {"first": np.int64(0), "step": np.int64(1), "index": np.int64(1), "column": np.int64([1])}
    return [
        helper.make_node("Shape", ["mask"], ["sizes"], "m0"),
        helper.make_node("Gather", ["sizes", "index"], ["length"], "m1"),
        helper.make_node("Range", ["first", "length", "step"], ["places"], "m2"),
        helper.make_node("Unsqueeze", ["places", "column"], ["rows"], "m3"),
        helper.make_node("Less", ["rows", "places"], ["later"], "m4"),
        helper.make_node("Where", ["later", "far", "nought"], ["bias"], "m5"),
    ]


def layer(x, y, weights, *, scaled="both", masked=True):
    """Nodes of one attention that reads x and writes y; names of its own begin with y."""
    nodes = [helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"{y}_codes"], f"{y}_quantize")]
    for side, perm in zip("qkv", (QUERY, KEY, QUERY), strict=True):
        names = [f"{side}_{kind}" if f"{side}_{kind}" in weights else "" for kind in "wszb"]
        inputs = [f"{y}_codes", names[0], "scale", names[1], "zero", *names[2:]]
        nodes += [
            helper.make_node("MatMulIntegerToFloat", inputs, [f"{y}_{side}"], f"{y}_{side}", domain="com.microsoft"),
            helper.make_node("Reshape", [f"{y}_{side}", "split"], [f"{y}_{side}4"], f"{y}_{side}_split"),
            helper.make_node("Transpose", [f"{y}_{side}4"], [f"{y}_{side}t"], f"{y}_{side}_turn", perm=perm),
        ]
    q, k, v, scores = f"{y}_qt", f"{y}_kt", f"{y}_vt", f"{y}_product"
    if scaled == "both":
        nodes.append(helper.make_node("Mul", [q, "half"], [q := f"{y}_qs"], f"{y}_q_scale"))
        nodes.append(helper.make_node("Mul", ["half", k], [k := f"{y}_ks"], f"{y}_k_scale"))
    nodes.append(helper.make_node("MatMul", [q, k], [scores], f"{y}_scores"))
    if scaled == "scores":
        nodes.append(helper.make_node("Div", [scores, "root"], [scores := f"{y}_divided"], f"{y}_divide"))
    if masked:
        nodes.append(helper.make_node("Add", [scores, "bias"], [scores := f"{y}_masked"], f"{y}_add"))
    return [
        *nodes,
        helper.make_node("Softmax", [scores], [f"{y}_p"], f"{y}_softmax", axis=-1),
        helper.make_node("MatMul", [f"{y}_p", v], [f"{y}_c4"], f"{y}_context"),
        helper.make_node("Transpose", [f"{y}_c4"], [f"{y}_c"], f"{y}_back", perm=QUERY),
        helper.make_node("Reshape", [f"{y}_c", "join"], [y], f"{y}_join"),
    ]


NARROW, SQUARE = ["batch", 1, 1, "sequence"], ["batch", 1, "sequence", "sequence"]
MASKS = {least: NARROW, infinite: SQUARE, late: SQUARE, causal: ["sequence"] * 2}


def known(name, mask):
    """Shape of a value where the rewriting needs it."""
    if name == "bias":
        return MASKS[mask]
    if name == "narrow":
        return NARROW
    if name.endswith(("_q4", "_k4", "_v4")):
        return ["batch", "sequence", HEADS, SIZE]
    return ["batch", "sequence", WIDTH] if name.endswith(("_q", "_k", "_v")) or name in ("h0", "h1") else None


def save(path, mask=None, *, layers=1, change=None, scaled="both", bias=True, zero=False):
    """`layers` attentions behind each other, all with the same weights; the last writes y."""
    constants = {"scale": np.float32(0.02), "zero": np.uint8(120), "half": np.float32(0.5), "root": np.float32([4])}
    constants |= {"split": np.int64([0, 0, HEADS, SIZE]), "join": np.int64([0, 0, WIDTH])}
    for seed, side in enumerate("qkv"):
        constants |= weight(side, seed=seed, bias=bias, zero=zero)
    nodes, x = mask(constants) if mask else [], "x"
    for index in range(layers):
        y = "y" if index == layers - 1 else f"h{index}"
        nodes += layer(x, y, constants, scaled=scaled, masked=mask is not None)
        x = y
    if change:
        change(nodes, constants)
    ports = [graphs.tensor("x", ["batch", "sequence", WIDTH])]
    ports += [graphs.tensor("mask", ["batch", "sequence"], TensorProto.INT64)] if mask else []
    used = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in constants.items() if name in used}
    graphs.save(path, nodes, ports, [graphs.tensor("y", ["batch", "sequence", WIDTH])], constants)
    model = io.load(path)  # what a simplified model has, and onnx cannot infer behind onnxruntime's operators
    for value in [value for node in model.graph for value in node.outputs]:
        shape = known(value.name, mask)
        if shape is not None:
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    io.save(model, path)
    return path


def lowered(path, *steps):
    model = io.load(path)
    emit = Emitter(model.graph)
    for step in steps or (fuse_attention,):
        step(emit)
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    io.match_ir_version(model)
    target = path.with_name("lowered.onnx")
    io.save(model, target)
    onnx.checker.check_model(onnx.load(target))
    return target


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def feeds(batch, length, *, masked=True, empty=False):
    """Row i ends in i padded tokens; with `empty` the last one is nothing else."""
    x = np.random.default_rng(batch).normal(0, 1, (batch, length, WIDTH)).astype(np.float32)
    mask = (np.arange(length) < length - np.arange(batch)[:, None]).astype(np.int64)
    if empty:
        mask[-1] = 0
    return {"x": x} | ({"mask": mask} if masked else {})


@pytest.mark.parametrize("scaled", ["both", "scores", "never"])
@pytest.mark.parametrize(("bias", "zero"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("mask", [None, least, infinite, late, causal])
def test_a_fused_attention_computes_the_same(tmp_path, mask, scaled, bias, zero):
    path = save(tmp_path / "m.onnx", mask, scaled=scaled, bias=bias, zero=zero)
    target = lowered(path)
    found = operators(target)
    assert found["Attention"] == 1
    assert not {"Softmax", "Transpose", "Reshape", "MatMul"} & set(found)
    assert found["Expand"] == (mask in (least, infinite, late))
    assert {entry.domain: entry.version for entry in onnx.load(target).opset_import}[""] == OPSET
    for batch, length in ((3, 9), (1, 5), (1, 1), (2, 130)):
        feed = feeds(batch, length, masked=mask is not None)
        (expected,), (result,) = run(path, **feed), run(target, **feed)
        assert sqnr_db(expected, result) > CLOSE_DB


def test_a_text_of_padding_alone_gives_what_it_gave(tmp_path):
    path = save(tmp_path / "m.onnx", least)
    feed = feeds(3, 9, empty=True)
    (expected,), (result,) = run(path, **feed), run(lowered(path), **feed)
    assert sqnr_db(expected, result) > CLOSE_DB


def test_minus_infinity_everywhere_gives_numbers(tmp_path):
    feed = feeds(3, 9, empty=True)
    assert np.isfinite(run(lowered(save(tmp_path / "m.onnx", infinite)), **feed)[0]).all()


def test_layers_share_a_mask_and_keep_their_names(tmp_path):
    path = save(tmp_path / "m.onnx", least, layers=3)
    target = lowered(path)
    assert operators(target)["Expand"] == 1
    assert operators(target)["Attention"] == 3
    names = {node.name for node in onnx.load(target).graph.node if node.op_type == "MatMulIntegerToFloat"}
    assert names == {f"{y}_{side}" for y in ("h0", "h1", "y") for side in "qkv"}
    feed = feeds(2, 6)
    assert sqnr_db(run(path, **feed)[0], run(target, **feed)[0]) > 40  # an activation on the edge of two codes: 1/255


@pytest.mark.parametrize("mask", [least, late])
def test_a_mask_is_bounded_before_it_is_expanded(tmp_path, mask):
    order = [node.op_type for node in onnx.load(lowered(save(tmp_path / "m.onnx", mask))).graph.node]
    assert order.index("Max") < order.index("Expand")


def test_an_old_opset_is_left_alone(tmp_path):
    path = save(tmp_path / "m.onnx", least)
    model = onnx.load(path)
    next(entry for entry in model.opset_import if not entry.domain).version = 20
    onnx.save(model, path)
    assert operators(lowered(path)) == operators(path)


def read_elsewhere(nodes, constants):
    nodes.append(helper.make_node("ReduceMax", ["y_p"], ["top"], "spy", keepdims=0))
    nodes[-2].output[0] = "plain"
    nodes.append(helper.make_node("Add", ["plain", "top"], ["y"], "use"))


def quantized_scores(nodes, constants):
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    constants |= {"small": np.float32(0.1)}
    nodes.insert(at, helper.make_node("QuantizeLinear", [nodes[at].input[0], "small", "zero"], ["sq"], "q"))
    nodes.insert(at + 1, helper.make_node("DequantizeLinear", ["sq", "small", "zero"], ["sd"], "dq"))
    nodes[at + 2].input[0] = "sd"


def float_keys(nodes, constants):
    node = next(node for node in nodes if node.name == "y_k")
    constants["k_float"] = np.eye(WIDTH, dtype=np.float32)
    node.CopyFrom(helper.make_node("MatMul", ["x", "k_float"], ["y_k"], "y_k"))


def test_projections_may_be_float(tmp_path):
    path = save(tmp_path / "m.onnx", least, change=float_keys)
    target = lowered(path)
    assert operators(target)["Attention"] == 1
    feed = feeds(3, 9)
    assert sqnr_db(run(path, **feed)[0], run(target, **feed)[0]) > CLOSE_DB


def another_order(nodes, constants):
    node = next(node for node in nodes if node.name == "y_back")
    node.attribute[0].ints[:] = [0, 1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [read_elsewhere, quantized_scores, another_order],
)
def test_what_would_compute_something_else_is_left_alone(tmp_path, change):
    path = save(tmp_path / "m.onnx", least, change=change)
    assert operators(lowered(path)) == operators(path)


def biased(nodes, constants):
    """A position bias in front of every mask, the same in all layers."""
    constants["position"] = np.random.default_rng(5).normal(0, 1, (1, HEADS, 6, 6)).astype(np.float32)
    for node in [node for node in nodes if node.name.endswith("_add")]:
        scores, y = node.input[0], node.name.removesuffix("_add")
        nodes.insert(nodes.index(node), helper.make_node("Add", ["position", scores], [f"{y}_placed"], f"{y}_place"))
        node.input[0] = f"{y}_placed"


@pytest.mark.parametrize("layers", [1, 3])
def test_a_position_bias_and_a_mask_are_one_mask_for_all_layers(tmp_path, layers):
    path = save(tmp_path / "m.onnx", least, layers=layers, change=biased, scaled="never")
    assert operators(path)["Add"] == 2 * layers
    feed = feeds(2, 6)
    for steps in ((share_sums,), (share_sums, fuse_attention)):
        target = lowered(path, *steps)
        assert operators(target)["Add"] == (1 if fuse_attention in steps else 1 + layers)
        assert operators(target)["Attention"] == (layers if fuse_attention in steps else 0)
        assert sqnr_db(run(path, **feed)[0], run(target, **feed)[0]) > 40  # as above
