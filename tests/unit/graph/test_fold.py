"""Folding changes no result, costs what its docstring says, says why it cannot, and spares what others still read."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from qonnx_pipe.core.affine import Affine
from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.graph import io
from qonnx_pipe.graph.equalise import equalising, unequal
from qonnx_pipe.graph.fold import fold, obstacle, restores, weights_behind
from tests.zoo import graphs

WIDTH, OUT = 32, 24
SHAPE = ["batch", "sequence", WIDTH]
SITE = Site("layer.0/ffn.input", Role.FFN_INPUT, 0, "normed", WIDTH, ("first", "second"))
NEITHER = "it is neither the output of a LayerNormalization nor the context of an attention"
NOT_LINEAR = (
    "{} makes it, which is not linear: folding would take a Mul and an Add over the whole tensor; use split or expand"
)
GIVEN = {"gain": "a graph input"}
NOISE_DB = 110.0
"""Between two float32 results whose rounding differs: 24 bits are 144 dB, less a few sums of 32 terms."""


def network(
    path: Path,
    *,
    gemm: bool = False,
    residual: bool = True,
    given_out: bool = False,
    same_gain: bool = False,
    same_weight: bool = False,
    moved: bool = False,
    norm: bool = True,
    norm_bias: bool = True,
    partner: bool = False,
) -> Path:
    """x → LayerNormalization → two linear layers (and the residual branch); the options are what may be in the way."""
    rng = np.random.default_rng(2)
    gain = rng.normal(1, 0.1, WIDTH).astype(np.float32)
    gain[[5, 20]] *= 40
    shift = rng.normal(0, 0.1, WIDTH).astype(np.float32)
    matrices = {f"w{i}": rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32) for i in range(2)}
    constants = {"gain": gain, "shift": gain if same_gain else shift, **matrices}
    vectors = ["gain", "gain" if same_gain else "shift"]
    if not norm_bias:
        vectors = vectors[:1]
    nodes = [
        helper.make_node("LayerNormalization", ["x", *vectors], ["normed"], "norm")
        if norm
        else helper.make_node("Mul", ["x", "gain"], ["normed"], "scale")
    ]
    source = "normed"
    if moved:
        nodes.append(helper.make_node("Identity", ["normed"], ["copy"], "move"))
        source = "copy"
    if gemm:
        constants["flat"] = np.int64([-1, WIDTH])
        constants |= {name: np.ascontiguousarray(matrix.T) for name, matrix in matrices.items()}
    for i, name in enumerate(("first", "second")):
        read = ["w0" if same_weight else f"w{i}"]
        operand = "normed" if i == 0 else source
        nodes.append(
            helper.make_node("Gemm", [operand, *read], [f"y{i}"], name, transB=1)
            if gemm
            else helper.make_node("MatMul", [operand, *read], [f"y{i}"], name)
        )
    if same_weight:
        nodes.append(helper.make_node("MatMul", ["x", "w0"], ["y2"], "third"))
    outputs = ["y0", "y1", *(["y2"] if same_weight else [])]
    if partner:
        constants |= {"w2": rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32), "b2": shift}
        nodes.append(helper.make_node("MatMul", ["x", "w2"], ["product"], "partner"))
        nodes.append(helper.make_node("Add", ["product", "b2"], ["branch"], "partner_bias"))
    if residual:
        nodes.append(helper.make_node("Add", ["branch" if partner else "x", "normed"], ["sum"], "residual"))
        outputs.append("sum")
    outputs += ["normed"] if given_out else []
    shape = ["batch", WIDTH] if gemm else SHAPE
    ports = [graphs.tensor(name, [*shape[:-1], OUT] if name[0] == "y" else shape) for name in outputs]
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in constants.items() if name in used}
    return graphs.save(path, nodes, [graphs.tensor("x", shape)], ports, kept)


def data(*, gemm: bool = False) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (21, WIDTH) if gemm else (3, 7, WIDTH)).astype(np.float32)


def run(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    opened = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {"x": x}), strict=True))


def affine(*, shift: bool, width: int = WIDTH) -> Affine:
    """Scales over two decades, and shifts of their size."""
    rng = np.random.default_rng(5)
    scale = np.exp(rng.normal(0, 1, width)).astype(np.float32)
    return Affine(scale, (scale * rng.normal(0, 1, width) * shift).astype(np.float32))


def folded(source: Path, target: Path, wishes: dict[Site, Affine]) -> dict[str, Affine]:
    model = io.load(source)
    moved = fold(model, wishes)
    io.save(model, target)
    onnx.checker.check_model(target, full_check=True)
    return moved


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    noise = np.sum((expected.astype(np.float64) - found) ** 2)
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / noise)) if noise else np.inf


def operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


def constants_of(path: Path) -> dict[str, np.ndarray]:
    return {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}


FORMS = [
    {},
    {"gemm": True},
    {"residual": False},
    {"given_out": True},
    {"same_gain": True},
    {"norm_bias": False},
    {"partner": True},
    {"partner": True, "given_out": True},
]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_model_computes_the_same(tmp_path: Path, shift: bool, options: dict) -> None:
    source = network(tmp_path / "float.onnx", **options)
    x = data(gemm=options.get("gemm", False))
    folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=shift)})
    before, after = run(source, x), run(tmp_path / "fold.onnx", x)
    assert list(before) == list(after)
    for name, values in before.items():
        assert sqnr_db(values, after[name]) > NOISE_DB, name


@pytest.mark.parametrize("shift", [False, True])
def test_the_tensor_becomes_what_was_asked_for(tmp_path: Path, shift: bool) -> None:
    source = network(tmp_path / "float.onnx")
    wish, x = affine(shift=shift), data()
    normed = run(source, x)["sum"] - x
    assert folded(source, tmp_path / "fold.onnx", {SITE: wish}) == {"normed": wish}
    model = onnx.load(tmp_path / "fold.onnx")
    model.graph.output.append(graphs.tensor("normed", SHAPE))
    onnx.save(model, tmp_path / "seen.onnx")
    seen = run(tmp_path / "seen.onnx", x)["normed"]
    assert sqnr_db((normed - wish.shift) / wish.scale, seen) > NOISE_DB - 10, "the reference is a difference"


@pytest.mark.parametrize(
    ("options", "shift", "added"),
    [
        ({}, False, ["Mul"]),
        ({}, True, ["Add", "Mul", "Add", "Add"]),  # restored z, and the biases of two layers that had none
        ({"residual": False}, False, []),
        ({"partner": True}, True, ["Mul", "Add", "Add"]),  # z went into the partner's bias
        ({"gemm": True, "residual": False}, True, []),
    ],
)
def test_it_costs_what_it_says(tmp_path: Path, options: dict, shift: bool, added: list[str]) -> None:
    source = network(tmp_path / "float.onnx", **options)
    moved = folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=shift)})
    assert operators(tmp_path / "fold.onnx") == sorted([*operators(source), *added])
    taken = {"branch"} if options.get("partner") else set()
    assert set(moved) == {"normed"} | taken
    for name in taken:
        np.testing.assert_array_equal(moved[name].shift, -affine(shift=True).shift)


def test_a_shift_alone_multiplies_nothing(tmp_path: Path) -> None:
    source = network(tmp_path / "float.onnx", partner=True)
    folded(source, tmp_path / "fold.onnx", {SITE: Affine.shifting(affine(shift=True).shift)})
    assert "Mul" not in operators(tmp_path / "fold.onnx")
    before, after = run(source, x := data()), run(tmp_path / "fold.onnx", x)
    for name, values in before.items():
        assert sqnr_db(values, after[name]) > NOISE_DB, name


@pytest.mark.parametrize(("options", "costs"), [({}, True), ({"residual": False}, False), ({"partner": True}, True)])
def test_whether_scales_cost_a_mul_is_told_before(tmp_path: Path, options: dict, costs: bool) -> None:
    source = network(tmp_path / "float.onnx", **options)
    assert restores(io.load(source), SITE) == costs
    folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=False)})
    assert ("Mul" in operators(tmp_path / "fold.onnx")) == costs


def test_constants_that_others_read_stay_as_they_are(tmp_path: Path) -> None:
    """One initializer is both gain and bias, and a second normalization reads it too."""
    source = network(tmp_path / "float.onnx", same_gain=True)
    model = onnx.load(source)
    model.graph.node.append(helper.make_node("LayerNormalization", ["x", "gain"], ["other"], "other_norm"))
    model.graph.output.append(graphs.tensor("other", SHAPE))
    onnx.save(model, source)
    folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=True)})
    x = data()
    np.testing.assert_array_equal(run(source, x)["other"], run(tmp_path / "fold.onnx", x)["other"])
    names = set(constants_of(tmp_path / "fold.onnx"))
    assert "gain" in names
    assert not names & {"w0", "w1"}, "what nothing reads any more is gone"


def test_a_shape_that_is_read_costs_nothing(tmp_path: Path) -> None:
    source = network(tmp_path / "float.onnx", residual=False)
    model = onnx.load(source)
    model.graph.node.append(helper.make_node("Shape", ["normed"], ["shape"], "measure"))
    model.graph.output.append(graphs.tensor("shape", [3], onnx.TensorProto.INT64))
    onnx.save(model, source)
    folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=False)})
    assert "Mul" not in operators(tmp_path / "fold.onnx")


def test_weights_behind_a_site(tmp_path: Path) -> None:
    source = network(tmp_path / "float.onnx", gemm=True)
    stored = constants_of(source)
    found = weights_behind(io.load(source), SITE)
    assert list(found) == ["first", "second"]
    np.testing.assert_array_equal(found["second"], stored["w1"].T)


@pytest.mark.parametrize(
    ("options", "feeds", "reason"),
    [
        ({}, ("first", "second"), ""),
        ({"gemm": True}, ("first", "second"), ""),
        ({}, (), "no weight MatMul reads it"),
        ({"norm": False}, ("first", "second"), NOT_LINEAR.format("Mul")),
        ({"moved": True}, ("first", "second"), "a weight MatMul reads it behind data movement"),
        ({"moved": True}, ("second",), NEITHER),
        (GIVEN, ("first",), "its LayerNormalization has a gain or bias that is no constant"),
        ({"same_weight": True}, ("first", "second"), "another layer shares its weights"),
    ],
)
def test_obstacles(tmp_path: Path, options: dict, feeds: tuple[str, ...], reason: str) -> None:
    source = given_gain(tmp_path / "float.onnx") if options is GIVEN else network(tmp_path / "float.onnx", **options)
    site = Site(SITE.id, SITE.role, 0, "normed", WIDTH, feeds)
    assert obstacle(io.load(source), site) == reason


def given_gain(path: Path) -> Path:
    """A LayerNormalization whose gain is a graph input."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "given_gain"], ["normed"], "norm"),
        helper.make_node("MatMul", ["normed", "w0"], ["y0"], "first"),
    ]
    inputs = [graphs.tensor("x", SHAPE), graphs.tensor("given_gain", [WIDTH])]
    return graphs.save(
        path, nodes, inputs, [graphs.tensor("y0", [*SHAPE[:-1], OUT])], {"w0": np.ones((WIDTH, OUT), np.float32)}
    )


def test_two_layers_that_share_a_weight_and_an_input_are_no_obstacle(tmp_path: Path) -> None:
    source = network(tmp_path / "float.onnx", residual=False)
    model = onnx.load(source)
    model.graph.node[2].input[1] = "w0"
    del model.graph.initializer[[entry.name for entry in model.graph.initializer].index("w1")]
    onnx.save(model, source)
    assert obstacle(io.load(source), SITE) == ""
    folded(source, tmp_path / "fold.onnx", {SITE: affine(shift=True)})
    x = data()
    assert sqnr_db(run(source, x)["y1"], run(tmp_path / "fold.onnx", x)["y1"]) > NOISE_DB


HEADS, SIZE = 4, 8
CONTEXT = Site("layer.0/attention.context", Role.ATTENTION_CONTEXT, 0, "context", WIDTH, ("output",))


def attention(
    path: Path, *, bias: bool = True, masked: bool = False, read: str = "", perm: tuple[int, ...] = (0, 2, 1, 3)
) -> Path:
    """x and scores → context → output projection; `read` is a tensor that becomes an output too."""
    rng = np.random.default_rng(3)
    constants = {
        "wv": rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32) * np.logspace(-1, 1, WIDTH, dtype=np.float32),
        "wo": rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32),
        "bv": rng.normal(0, 1, WIDTH).astype(np.float32),
        "bo": rng.normal(0, 1, OUT).astype(np.float32),
        "heads": np.int64([0, 0, HEADS, SIZE]),
        "joined": np.int64([0, 0, WIDTH]),
        "nothing": np.float32(0),
        "low": np.float32(-1.5),
    }
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "wv"], ["product"], "value"),
        make("Add", ["product", "bv"], ["values"], "value_bias") if bias else make("Identity", ["product"], ["values"]),
        make("Reshape", ["product" if not bias else "values", "heads"], ["split"], "split"),
        make("Transpose", ["split"], ["by_head"], "to_heads", perm=[0, 2, 1, 3]),
        make("Softmax", ["scores"], ["rows"], "softmax", axis=-1),
        make("Less", ["scores", "low"], ["small"], "compare"),
        make("Where", ["small", "nothing", "rows"], ["kept"], "mask"),
        make("MatMul", ["kept" if masked else "rows", "by_head"], ["weighted"], "weighting"),
        make("Transpose", ["weighted"], ["back"], "from_heads", perm=list(perm)),
        make("Reshape", ["back", "joined"], ["context"], "join"),
        make("MatMul", ["context", "wo"], ["projected"], "output"),
        make("Add", ["projected", "bo"], ["y"], "output_bias"),
    ]
    if not bias:
        del nodes[1], constants["bv"]
    if not masked:
        nodes = [node for node in nodes if node.name not in ("compare", "mask")]
        del constants["nothing"], constants["low"]
    inputs = [graphs.tensor("x", SHAPE), graphs.tensor("scores", ["batch", HEADS, "sequence", "sequence"])]
    outputs = [graphs.tensor("y", [*SHAPE[:-1], OUT])] + ([graphs.tensor(read, SHAPE)] if read else [])
    saved = graphs.save(path, nodes, inputs, outputs, constants)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(saved)), saved)
    return saved


def attend(path: Path) -> np.ndarray:
    scores = np.random.default_rng(9).normal(0, 1, (3, HEADS, 7, 7)).astype(np.float32)
    opened = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return opened.run(["y"], {"x": data(), "scores": scores})[0]


@pytest.mark.parametrize(("shift", "bias", "masked"), [(True, True, False), (True, False, False), (False, True, True)])
def test_a_context_folds_into_the_values_for_nothing(tmp_path: Path, shift: bool, bias: bool, masked: bool) -> None:
    source = attention(tmp_path / "float.onnx", bias=bias, masked=masked)
    assert obstacle(io.load(source), CONTEXT, shift=shift) == ""
    wish = affine(shift=shift)
    moved = folded(source, tmp_path / "fold.onnx", {CONTEXT: wish})
    assert moved == {"context": wish, "values" if bias else "product": wish}
    assert sqnr_db(attend(source), attend(tmp_path / "fold.onnx")) > NOISE_DB
    new = [] if bias else ["Add"]
    assert operators(tmp_path / "fold.onnx") == sorted([*operators(source), *new])


@pytest.mark.parametrize(
    ("options", "shift", "reason"),
    [
        ({"masked": True}, True, "rows of its probabilities may not sum to one: scales only"),
        ({"read": "context"}, False, "something besides weight MatMuls reads it"),
        ({"read": "values"}, False, "something else reads the attention's values on the way"),
    ],
)
def test_contexts_that_cannot_be_folded(tmp_path: Path, options: dict, shift: bool, reason: str) -> None:
    source = attention(tmp_path / "float.onnx", **options)
    assert obstacle(io.load(source), CONTEXT, shift=shift) == reason


def test_equalising_evens_out_the_two_weights_around_a_context(tmp_path: Path) -> None:
    source = attention(tmp_path / "float.onnx")
    before = constants_of(source)
    r1, r2 = np.abs(before["wv"]).max(axis=0), np.abs(before["wo"]).max(axis=1)
    model = io.load(source)
    wishes = equalising(model, [CONTEXT, SITE])
    assert set(wishes) == {CONTEXT}
    folded(source, tmp_path / "fold.onnx", wishes)
    after = constants_of(tmp_path / "fold.onnx")
    for name, axis in (("wv", 0), ("wo", 1)):
        (weight,) = (array for key, array in after.items() if key.startswith(name))
        np.testing.assert_allclose(np.abs(weight).max(axis=axis), np.sqrt(r1 * r2), rtol=1e-5)
    assert sqnr_db(attend(source), attend(tmp_path / "fold.onnx")) > NOISE_DB


def test_what_cannot_be_equalised_is_told(tmp_path: Path) -> None:
    model = io.load(attention(tmp_path / "float.onnx", read="values"))
    (skip,) = unequal(model, [CONTEXT, SITE])
    assert skip.site == CONTEXT.id
    assert skip.reason == "not equalised: something else reads the attention's values on the way"
