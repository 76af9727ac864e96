"""Walking: what is a linear layer, where data come from, who reads them."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.graph import io, walk
from tests.zoo import graphs

W = 8


def graph(tmp_path, nodes, constants, outputs=("y",), **inputs):
    """The graph of these nodes over x [2, W] and other inputs."""
    ports = [graphs.tensor("x", [2, W]), *(graphs.tensor(name, shape) for name, shape in inputs.items())]
    results = [graphs.tensor(name, ["any", "size"]) for name in outputs]
    return io.load(graphs.save(tmp_path / "m.onnx", nodes, ports, results, constants)).graph


def node(op_type, inputs, output, name=None, **attributes):
    return helper.make_node(op_type, inputs, [output], name or output, **attributes)


def value(found, name):
    return next(value for each in found for value in (*each.inputs, *each.outputs) if value and value.name == name)


def matrix(rows=W, columns=3, dtype=np.float32):
    return np.ones((rows, columns), dtype)


@pytest.mark.parametrize("left", [True, False])
def test_a_matmul_and_its_bias_in_either_order(tmp_path, left):
    add = node("Add", ["b", "h"] if left else ["h", "b"], "y")
    constants = {"w": matrix(), "b": np.ones(3, np.float32)}
    found = graph(tmp_path, [node("MatMul", ["x", "w"], "h"), add], constants)
    (linear,) = walk.linears(found)
    assert (linear.name, linear.source.name, linear.output.name, linear.shape) == ("h", "x", "y", (W, 3))
    assert (linear.bias[0].name, linear.bias[1]) == ("y", 0 if left else 1)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", [True, False])
def test_a_gemm(tmp_path, transposed, biased):
    constants = {"w": matrix(3, W) if transposed else matrix()} | ({"b": np.ones(3, np.float32)} if biased else {})
    found = graph(tmp_path, [node("Gemm", ["x", *constants], "y", transB=transposed)], constants)
    (linear,) = walk.linears(found)
    assert (linear.transposed, linear.shape, linear.output.name) == (bool(transposed), (W, 3), "y")
    assert (linear.bias == (linear.node, 2)) if biased else (linear.bias is None)


def test_a_product_that_others_read_has_no_bias(tmp_path):
    nodes = [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y"), node("Relu", ["h"], "z")]
    found = graph(tmp_path, nodes, {"w": matrix(), "b": np.ones(3, np.float32)}, ("y", "z"))
    (linear,) = walk.linears(found)
    assert (linear.output.name, linear.bias) == ("h", None)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_what_is_added_is_no_bias_unless_it_is_a_vector_of_the_width(tmp_path, shape):
    nodes = [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y")]
    (linear,) = walk.linears(graph(tmp_path, nodes, {"w": matrix(), "b": np.ones(shape, np.float32)}))
    assert linear.output.name == "h"


@pytest.mark.parametrize(
    ("operator", "constants"),
    [
        (node("MatMul", ["w", "t"], "y"), {"w": matrix(3, W)}),  # the constant on the left
        (node("MatMul", ["x", "w"], "y"), {"w": np.ones((2, W, 3), np.float32)}),  # a stack of matrices
        (node("MatMul", ["x", "w"], "y"), {"w": np.ones(W, np.float32)}),  # a vector
        (node("MatMul", ["x", "t"], "y"), {}),  # two activations
        (node("Gemm", ["t", "w"], "y", transA=1), {"w": matrix()}),
        (node("Gemm", ["x", "w"], "y", alpha=0.5), {"w": matrix()}),
        (node("Gemm", ["x", "w", "b"], "y", beta=2.0), {"w": matrix(), "b": np.ones(3, np.float32)}),
    ],
)
def test_other_products_are_no_linear_layers(tmp_path, operator, constants):
    turned = node("Transpose", ["x"], "t", perm=[1, 0])
    assert walk.linears(graph(tmp_path, [turned, operator], constants, ("y", "t"))) == ()


def test_an_initializer_that_a_caller_can_override_is_no_constant(tmp_path):
    found = graph(tmp_path, [node("MatMul", ["x", "w"], "y")], {"w": matrix()}, w=[W, 3])
    assert walk.linears(found) == ()


def test_the_microsoft_matmul_is_another(tmp_path):
    fused = helper.make_node("FusedMatMul", ["x", "w"], ["y"], "y", domain="com.microsoft")
    assert walk.linears(graph(tmp_path, [fused], {"w": matrix()})) == ()


def test_back_through_moves_to_where_it_was_computed(tmp_path):
    nodes = [
        node("Relu", ["x"], "a"),
        node("Reshape", ["a", "shape"], "b"),
        node("Transpose", ["b"], "c", perm=[1, 0]),
        node("Cast", ["c"], "y", to=TensorProto.FLOAT),
    ]
    found = graph(tmp_path, nodes, {"shape": np.int64([4, 4])})
    assert [one.name for one in walk.origins(value(found, "y"))] == ["y", "c", "b", "a"]
    assert walk.through_moves(value(found, "y")).name == "a"
    assert [one.name for one in walk.readers(value(found, "a"))] == ["b", "c", "y"]
    assert [one.name for one in walk.readers(value(found, "a"), frozenset())] == ["b"]


def test_the_rows_of_a_table_come_from_the_gather(tmp_path):
    nodes = [node("Gather", ["table", "ids"], "rows"), node("Unsqueeze", ["rows", "axis"], "y")]
    constants = {"table": matrix(), "ids": np.int64([1, 2]), "axis": np.int64([0])}
    assert walk.through_moves(value(graph(tmp_path, nodes, constants), "y")).name == "rows"


@pytest.mark.parametrize("scaling", [["h", "k"], ["k", "h"], ["h", "s"], ["s", "h"]])
def test_back_to_the_linear_layer_behind_scalings_in_either_order(tmp_path, scaling):
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Sqrt", ["scalar"], "s"),
        node("Mul", scaling, "m"),
        node("Div", ["m", "k"], "y"),
    ]
    found = graph(tmp_path, nodes, {"w": matrix(), "k": np.float32(2)}, scalar=[])
    (linear,) = walk.linears(found)
    assert walk.back_to_linear(value(found, "y"), {linear.output: linear}) is linear
    assert walk.back_to_linear(value(found, "s"), {linear.output: linear}) is None


def test_a_written_out_activation_ends_in_its_last_value(tmp_path):
    """Gelu as exporters write it: x · ½ · (1 + erf(x / √2)); then a residual sum, which is no activation."""
    nodes = [
        node("Relu", ["x"], "h"),
        node("Div", ["h", "root"], "d"),
        node("Erf", ["d"], "e"),
        node("Add", ["one", "e"], "p"),
        node("Mul", ["h", "p"], "m"),
        node("Mul", ["half", "m"], "g"),
        node("Add", ["g", "x"], "y"),
    ]
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    found = graph(tmp_path, nodes, constants)
    names = [one.name for one in walk.activated(value(found, "h"))]
    assert (names[0], names[-1], set(names)) == ("h", "g", {"h", "d", "e", "p", "m", "g"})
