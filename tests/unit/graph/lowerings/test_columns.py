"""Columns: slices of what a linear layer computes are computed apart, where nothing else would miss the whole."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.encoding import Windows
from qonnx_pipe.core.plan import QuantPlan
from tests.unit.graph.lowerings.tiny import (
    WIDTH,
    activation,
    encode,
    kernels,
    outliers,
    per_group,
    per_tensor,
    quantized,
    run,
    weight,
)
from tests.zoo import graphs

INNER = 40
ORDER = np.random.default_rng(5).permutation(INNER).tolist()


def gelu(source, target):
    return [helper.make_node("Gelu", [source], [target], "gelu")]


def relu(source, target):
    return [helper.make_node("Relu", [source], [target], "relu")]


def erf(source, target):
    """GELU written out: x reaches the product twice."""
    return [
        helper.make_node("Div", [source, "root"], ["scaled"], "div"),
        helper.make_node("Erf", ["scaled"], ["erf"], "erf"),
        helper.make_node("Add", ["erf", "one"], ["shifted"], "shift"),
        helper.make_node("Mul", [source, "shifted"], ["twice"], "twice"),
        helper.make_node("Mul", ["twice", "half"], [target], "halve"),
    ]


def gate(source, target):
    """A factor for each column belongs to its slice."""
    return [helper.make_node("Mul", [source, "gains"], [target], "gate")]


def softmax(source, target):
    return [helper.make_node("Softmax", [source], [target], "softmax")]


CONSTANTS = {
    "root": np.float32(np.sqrt(2)),
    "one": np.float32([1]),
    "half": np.float32(0.5),
    "gains": np.linspace(-1, 2, INNER, dtype=np.float32),
}


def ffn(path, function=gelu, *, biased=True, shown=False, extra=False, tied=False, rank=3):
    """x → first → function → g → second → y; `shown`: h is an output, `extra`: something else reads g."""
    rng = np.random.default_rng(1)
    constants = {
        "w1": rng.normal(0, 0.2, (WIDTH, INNER)).astype(np.float32),
        "w2": rng.normal(0, 0.2, (INNER, WIDTH)).astype(np.float32),
        "b1": rng.normal(0, 1, INNER).astype(np.float32),
        "b2": rng.normal(0, 1, WIDTH).astype(np.float32),
        **CONSTANTS,
    }
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["p1" if biased else "h"], "first")]
    nodes += [helper.make_node("Add", ["p1", "b1"], ["h"], "bias1")] if biased else []
    nodes += [*function("h", "g"), helper.make_node("MatMul", ["g", "w2"], ["p2"], "second")]
    nodes += [helper.make_node("Add", ["p2", "b2"], ["y"], "bias2")]
    nodes += [helper.make_node("Neg", ["g"], ["other"], "neg")] if extra else []
    nodes += [helper.make_node("MatMul", ["x", "w1"], ["again"], "third")] if tied else []
    shape = ["batch", "sequence"][: rank - 1]
    names = ["y", *(["h"] if shown else []), *(["other"] if extra else []), *(["again"] if tied else [])]
    outputs = [graphs.tensor(name, [*shape, WIDTH if name == "y" else INNER]) for name in names]
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in constants.items() if name in used}
    return graphs.save(path, nodes, [graphs.tensor("x", [*shape, WIDTH])], outputs, kept)


def plan(lowering="integer", placement="matmul_inputs", *, tied=False):
    first = ("first", "third") if tied else ("first",)
    sites = [activation("x", *first), activation("g", "second", width=INNER)]
    weights = [weight("w1", *first, lowering=lowering), weight("w2", "second", lowering=lowering)]
    return QuantPlan("cpu", placement, (*sites, *weights))


def codings(source, x, sizes=(38, 2), order=ORDER, first=None):
    """Ranges of g from the float model, which shows it under another name."""
    model = onnx.load(source)
    model.graph.output.append(onnx.ValueInfoProto(name="g"))
    onnx.save(model, source.with_name("shown.onnx"))
    g = run(source.with_name("shown.onnx"), x=x)[-1]
    return {"x": first or per_tensor(x), "g": per_group(g, sizes, order)}


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def exact(path, source, plan_, coded, x):
    """What the quantized model should give: the same plan through the float model, quantized in numpy."""
    from qonnx_pipe.core.numerics import fake_quantize

    initial = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}

    def real(name):
        encoding, codes = encode(weight(name), initial[name])
        return codes * encoding.scale.astype(np.float64)

    h = fake_quantize(x, coded["x"]).astype(np.float64) @ real("w1") + initial.get("b1", 0)
    model = onnx.load(source)
    inner = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["h"], ["g"])
    onnx.save(inner, path)
    (g,) = run(path, h=h.astype(np.float32))
    return fake_quantize(g, coded["g"]).astype(np.float64) @ real("w2") + initial["b2"], coded["g"].scale.max()


@pytest.mark.parametrize("sizes", [(38, 2), (20, 20), (10, 10, 10, 10)], ids=str)
@pytest.mark.parametrize("order", [None, ORDER], ids=["in_order", "permuted"])
@pytest.mark.parametrize("function", [gelu, relu, erf, gate])
@pytest.mark.parametrize("biased", [True, False])
def test_no_gather_split_or_concat_is_left(tmp_path, function, order, sizes, *, biased):
    source = ffn(tmp_path / "m.onnx", function, biased=biased)
    x = outliers(2, 7, WIDTH)
    coded = codings(source, x, sizes, order)
    path = quantized(source, plan(), coded)
    found = operators(path)
    assert {"Gather", "Split", "Concat"}.isdisjoint(found)
    assert found.count("MatMulIntegerToFloat") == 2 * len(sizes)
    assert found.count("Sub") == len(sizes) - 1
    expected, step = exact(tmp_path / "inner.onnx", source, plan(), coded, x)
    (y,) = run(path, x=x)
    # Rounding of h in float32 can move a code of g by one step: the weights' rows weigh it.
    assert np.abs(y - expected).max() <= 2 * step
    assert np.mean(np.abs(y - expected) > 1e-3) < 0.01
    assert kernels(path, x=x).fraction == 1


@pytest.mark.parametrize(("extra", "wider"), [(False, True), (True, False)])
@pytest.mark.parametrize("function", [gelu, gate])
def test_a_runtime_that_fuses_gets_a_wider_layer_for_outliers(tmp_path, function, *, extra, wider):
    """Unless something else reads what the layer computes."""
    source = ffn(tmp_path / "m.onnx", function, extra=extra)
    onnx.shape_inference.infer_shapes_path(source)
    x = outliers(2, 7, WIDTH)
    coded = codings(source, x)
    places = Windows(INNER, (3, 3, 17), (1, 2, -1))
    coded["g"] = replace(per_tensor(np.array([-1.0, 2.0])), granularity=places)
    plain = quantized(source, plan("qdq"), coded)
    (expected, *_), before = run(plain, x=x), operators(plain)
    path = quantized(source, replace(plan("qdq"), target="openvino"), coded)
    (y, *_), found = run(path, x=x), operators(path)
    np.testing.assert_array_equal(y, expected)
    assert "Concat" in before
    assert before.count("MatMul") == 3
    assert ("Concat" not in found, found.count("MatMul") == 2) == (wider, wider)
    assert "Gather" not in found
    assert kernels(path, x=x).fraction == 1


@pytest.mark.parametrize("lowering", ["integer", "qdq"])
@pytest.mark.parametrize("rank", [2, 3])
def test_both_inputs_split(tmp_path, lowering, rank):
    source = ffn(tmp_path / "m.onnx", rank=rank)
    x = outliers(*((9, WIDTH) if rank == 2 else (2, 7, WIDTH)))
    first = per_group(x, (30, 2), [*(i for i in range(WIDTH) if i not in (5, 20)), 5, 20])
    coded = codings(source, x, first=first)
    path = quantized(source, plan(lowering), coded)
    assert operators(path).count("Split") == 1  # of x, which no linear layer computes
    expected, step = exact(tmp_path / "inner.onnx", source, plan(), coded, x)
    (y,) = run(path, x=x)
    assert np.abs(y - expected).max() <= 2 * step
    assert kernels(path, x=x).total == 2 * 2 + 2


@pytest.mark.parametrize("options", [{"shown": True}, {"extra": True}, {"tied": True}, {"function": softmax}], ids=str)
def test_what_others_read_is_still_computed_whole(tmp_path, options):
    source = ffn(tmp_path / "m.onnx", **options)
    x = outliers(2, 7, WIDTH)
    coded = codings(source, x)
    tied = options.get("tied", False)
    path = quantized(source, plan(tied=tied), coded)
    assert operators(path).count("Split") == 1
    expected, step = exact(tmp_path / "inner.onnx", source, plan(), coded, x)
    assert np.abs(run(path, x=x)[0] - expected).max() <= 2 * step


def test_placement_full_needs_no_whole_tensor_that_nobody_reads(tmp_path):
    source = ffn(tmp_path / "m.onnx")
    x = outliers(2, 7, WIDTH)
    coded = codings(source, x)
    full, inputs = (quantized(source, plan(placement=one), coded) for one in ("full", "matmul_inputs"))
    assert operators(full).count("Split") == 0
    np.testing.assert_array_equal(run(full, x=x)[0], run(inputs, x=x)[0])
