"""Smoothing changes no result, follows its formula, says why it cannot, and spares what others still read."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from qonnx_pipe.core.site import Role, Site
from qonnx_pipe.graph import io
from qonnx_pipe.graph.smooth import Smoothing, obstacle, smooth
from tests.unit.graph.lowerings.tiny import activation, encode, per_tensor, weight
from tests.zoo import graphs

WIDTH, OUT = 32, 24
SHAPE = ["batch", "sequence", WIDTH]
SITE = Site("layer.0/ffn.input", Role.FFN_INPUT, 0, "normed", WIDTH, ("first", "second"))
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
) -> Path:
    """x → LayerNormalization → two linear layers (and the residual branch); the options are what may be in the way."""
    rng = np.random.default_rng(2)
    gain = rng.normal(1, 0.1, WIDTH).astype(np.float32)
    gain[[5, 20]] *= 40
    shift = rng.normal(0, 0.1, WIDTH).astype(np.float32)
    matrices = {f"w{i}": rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32) for i in range(2)}
    constants = {"gain": gain, "shift": gain if same_gain else shift, **matrices}
    vectors = ["gain", "gain" if same_gain else "shift"]
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
    if residual:
        nodes.append(helper.make_node("Add", ["x", "normed"], ["sum"], "residual"))
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


def magnitude(path: Path, x: np.ndarray) -> np.ndarray:
    """Largest magnitude of each dimension of `normed`, which the residual branch shows."""
    return np.abs(run(path, x)["sum"] - x).reshape(-1, WIDTH).max(axis=0).astype(np.float32)


def smoothed(source: Path, target: Path, wish: Smoothing) -> dict[str, np.ndarray]:
    model = io.load(source)
    scales = smooth(model, [wish])
    io.save(model, target)
    onnx.checker.check_model(target, full_check=True)
    return scales


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    noise = np.sum((expected.astype(np.float64) - found) ** 2)
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / noise)) if noise else np.inf


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
@pytest.mark.parametrize(
    "options", [{}, {"gemm": True}, {"residual": False}, {"given_out": True}, {"same_gain": True}], ids=str
)
def test_the_model_computes_the_same(tmp_path: Path, alpha: float, options: dict) -> None:
    source = network(tmp_path / "float.onnx", **options)
    x = data(gemm=options.get("gemm", False))
    wish = Smoothing(SITE, alpha, np.linspace(0.5, 40, WIDTH, dtype=np.float32))
    smoothed(source, tmp_path / "smooth.onnx", wish)
    before, after = run(source, x), run(tmp_path / "smooth.onnx", x)
    assert list(before) == list(after)
    for name, values in before.items():
        assert sqnr_db(values, after[name]) > NOISE_DB, name


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("gemm", [False, True])
def test_scales_are_those_of_equation_4(tmp_path: Path, alpha: float, gemm: bool) -> None:
    source = network(tmp_path / "float.onnx", gemm=gemm)
    x = data(gemm=gemm)
    largest = magnitude(source, x)
    found = smoothed(source, tmp_path / "smooth.onnx", Smoothing(SITE, alpha, largest))[SITE.id]
    rng = np.random.default_rng(2)
    rng.normal(size=2 * WIDTH)
    matrices = [rng.normal(0, 0.2, (WIDTH, OUT)).astype(np.float32) for _ in range(2)]
    rows = np.abs(np.concatenate(matrices, axis=1)).max(axis=1).astype(np.float64)
    np.testing.assert_allclose(found, largest.astype(np.float64) ** alpha / rows ** (1 - alpha), rtol=1e-5)
    if alpha == 1.0:  # everything moves: each dimension then reaches exactly 1
        layer_norm = onnx.load(tmp_path / "smooth.onnx").graph
        gains = {entry.name: onnx.numpy_helper.to_array(entry) for entry in layer_norm.initializer}
        (norm,) = (node for node in layer_norm.node if node.op_type == "LayerNormalization")
        before = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(source).graph.initializer}
        np.testing.assert_allclose(gains[norm.input[1]], before["gain"] / found, rtol=1e-6)
        np.testing.assert_allclose(gains[norm.input[2]], before["shift"] / found, rtol=1e-6)


def test_a_dimension_that_is_always_zero_keeps_its_scale(tmp_path: Path) -> None:
    largest = np.ones(WIDTH, np.float32)
    largest[[3, 9]] = 0
    found = smoothed(network(tmp_path / "float.onnx"), tmp_path / "smooth.onnx", Smoothing(SITE, 0.5, largest))[SITE.id]
    assert found[[3, 9]].tolist() == [1, 1]
    assert not np.any(found[[0, 1, 2]] == 1)


def test_constants_that_others_read_stay_as_they_are(tmp_path: Path) -> None:
    """One initializer is both gain and bias, and a second normalization reads it too."""
    source = network(tmp_path / "float.onnx", same_gain=True)
    model = onnx.load(source)
    model.graph.node.append(helper.make_node("LayerNormalization", ["x", "gain"], ["other"], "other_norm"))
    model.graph.output.append(graphs.tensor("other", SHAPE))
    onnx.save(model, source)
    smoothed(source, tmp_path / "smooth.onnx", Smoothing(SITE, 1.0, np.full(WIDTH, 4, np.float32)))
    x = data()
    before, after = run(source, x), run(tmp_path / "smooth.onnx", x)
    np.testing.assert_array_equal(before["other"], after["other"])
    names = {entry.name for entry in onnx.load(tmp_path / "smooth.onnx").graph.initializer}
    assert "gain" in names
    assert not names & {"w0", "w1"}, "what nothing reads any more is gone"


@pytest.mark.parametrize(
    ("options", "feeds", "reason"),
    [
        ({}, ("first", "second"), ""),
        ({"gemm": True}, ("first", "second"), ""),
        ({}, (), "no weight MatMul reads it"),
        ({"norm": False}, ("first", "second"), "it is not the output of a LayerNormalization"),
        ({"moved": True}, ("first", "second"), "a weight MatMul reads it behind data movement"),
        ({"moved": True}, ("second",), "it is not the output of a LayerNormalization"),
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
    smoothed(source, tmp_path / "smooth.onnx", Smoothing(SITE, 0.5, np.linspace(1, 30, WIDTH, dtype=np.float32)))
    x = data()
    assert sqnr_db(run(source, x)["y1"], run(tmp_path / "smooth.onnx", x)["y1"]) > NOISE_DB


def test_a_smoothed_model_loses_less_to_quantization(tmp_path: Path) -> None:
    from qonnx_pipe.core.plan import QuantPlan
    from qonnx_pipe.graph.quantize import quantize

    source, x = network(tmp_path / "float.onnx"), data()
    expected, largest = run(source, x), magnitude(source, data())
    noise = {}
    for name, alpha in (("plain", 0.0), ("smooth", 0.7)):
        model = io.load(source)
        scale = smooth(model, [Smoothing(SITE, alpha, largest)])[SITE.id] if alpha else np.ones(WIDTH, np.float32)
        entries = (activation("normed", "first", "second"), weight("w0", "first"), weight("w1", "second"))
        quantize(
            model,
            QuantPlan("cpu", "matmul_inputs", entries),
            {"normed": per_tensor((expected["sum"] - x) / scale)},
            encode,
        )
        io.save(model, tmp_path / f"{name}.onnx")
        found = run(tmp_path / f"{name}.onnx", x)
        noise[name] = min(sqnr_db(expected[output], found[output]) for output in ("y0", "y1"))
    assert noise["plain"] > 15
    assert noise["smooth"] > noise["plain"] + 3
