"""Quantize: what stays as it was, what is refused, and that the file is sound."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from qonnx_pipe.core.plan import QuantPlan
from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.quantize import quantize
from tests.unit.graph.lowerings.tiny import (
    Layers,
    activation,
    encode,
    kernels,
    per_group,
    per_tensor,
    quantized,
    run,
    weight,
)
from tests.zoo import graphs


def read_names(graph):
    return {name for node in graph.node for name in node.input}


@pytest.mark.parametrize("form", ["matmul_add", "gemm_transposed"])
@pytest.mark.parametrize("sizes", [None, (16, 16), (30, 2)])
def test_names_opset_and_metadata_stay_and_nothing_is_left_over(tmp_path, form, sizes):
    layers = Layers(form, readers=3)
    x = layers.x()
    source = layers.save(tmp_path / "m.onnx")
    coding = per_tensor(x) if sizes is None else per_group(x, sizes, np.random.default_rng(3).permutation(32).tolist())
    before, after = onnx.load(source), onnx.load(quantized(source, layers.plan(), {"x": coding}))
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert after.metadata_props == before.metadata_props
    names = {node.name for node in after.graph.node}
    assert len(names) == len(after.graph.node)
    for node in before.graph.node:
        in_a_sum = node.op_type == "Add" and sizes is not None
        assert in_a_sum or node.name in names or {f"{node.name}_group0", f"{node.name}_Sum"} <= names
    initializers = {one.name for one in after.graph.initializer}
    assert initializers <= read_names(after.graph)
    assert all(one.data_type != onnx.TensorProto.FLOAT or len(one.dims) < 2 for one in after.graph.initializer)


def test_the_encodings_of_the_weights_come_back(tmp_path):
    layers = Layers("matmul_add", readers=2)
    model = io.load(layers.save(tmp_path / "m.onnx"))
    found = quantize(model, layers.plan(), {"x": per_tensor(layers.x())}, encode)
    assert set(found) == {"weight[w0]", "weight[w1]"}
    np.testing.assert_array_equal(
        found["weight[w1]"].scale, encode(layers.plan().entries[1], layers.weights[1])[0].scale
    )


def test_weights_are_encoded_one_at_a_time_as_in_out(tmp_path):
    layers = Layers("gemm_transposed", readers=2)
    seen = []

    def record(entry, values):
        seen.append((entry.site.tensor, values.copy()))
        return encode(entry, values)

    quantize(io.load(layers.save(tmp_path / "m.onnx")), layers.plan(), {"x": per_tensor(layers.x())}, record)
    assert [name for name, _ in seen] == ["w0", "w1"]
    for (_, values), expected in zip(seen, layers.weights, strict=True):
        np.testing.assert_array_equal(values, expected)


def test_a_quantized_model_is_refused(tmp_path):
    layers = Layers("matmul")
    codings = {"x": per_tensor(layers.x())}
    path = quantized(layers.save(tmp_path / "m.onnx"), layers.plan(), codings)
    with pytest.raises(ModelError, match="quantized already"):
        quantize(io.load(path), layers.plan(), codings, encode)


@pytest.mark.parametrize(("opset", "dtype", "fits"), [(20, "uint16", False), (20, "uint8", True), (21, "int16", True)])
def test_a_type_that_the_opset_lacks_is_refused(tmp_path, opset, dtype, fits):
    layers = Layers("matmul")
    model = io.load(layers.save(tmp_path / "m.onnx"))
    model.graph.opset_imports[""] = opset
    codings = {"x": per_tensor(layers.x(), dtype)}
    if fits:
        quantize(model, layers.plan(), codings, encode)
        assert model.graph.opset_imports[""] == opset
    else:
        with pytest.raises(ModelError, match="uint16 needs opset 21, the model has 20"):
            quantize(model, layers.plan(), codings, encode)


def test_a_plan_that_leaves_all_float_changes_no_node(tmp_path):
    layers = Layers("gemm", readers=2)
    source = layers.save(tmp_path / "m.onnx")
    after = onnx.load(quantized(source, layers.plan(spec=None, weight_spec=None), {}))
    assert after.graph.node == onnx.load(source).graph.node


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    layers = Layers("matmul")
    source = layers.save(tmp_path / "m.onnx")
    proto = onnx.load(source)
    proto.graph.node[0].name = "x_QuantizeLinear"
    onnx.save(proto, source)
    plan = layers.plan()
    entries = (replace(entry, site=replace(entry.site, feeds=("x_QuantizeLinear",))) for entry in plan.entries)
    path = quantized(source, replace(plan, entries=tuple(entries)), {"x": per_tensor(layers.x())})
    assert {"x_QuantizeLinear", "x_QuantizeLinear_1"} <= {node.name for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("lowering", ["qdq", "integer"])
@pytest.mark.parametrize("sizes", [(32,), (16, 16)])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_layers_right_behind_each_other(tmp_path, biased, sizes, lowering):
    rng = np.random.default_rng(0)
    matrices = {f"w{i}": rng.normal(0, 0.2, (32, 32)).astype(np.float32) for i in range(3)}
    nodes, constants, value = [], dict(matrices), "x"
    for i in range(3):
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [value := f"h{i}"], f"linear{i}"))
        if biased:
            constants[f"b{i}"] = np.ones(32, np.float32)
            nodes.append(helper.make_node("Add", [value, f"b{i}"], [value := f"a{i}"], f"add{i}"))
    ports = [graphs.tensor(name, ["batch", "sequence", 32]) for name in ("x", value)]
    path = graphs.save(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], constants)
    x, names = rng.normal(0, 1, (2, 5, 32)).astype(np.float32), ["x", *(f"{'a' if biased else 'h'}{i}" for i in (0, 1))]
    entries = [activation(name, f"linear{i}") for i, name in enumerate(names)]
    entries += [weight(f"w{i}", f"linear{i}", lowering=lowering) for i in range(3)]
    codings = {name: per_group(np.float32([[-9] * 32, [9] * 32]), sizes) for name in names}
    target = quantized(path, QuantPlan("cpu", "matmul_inputs", tuple(entries)), codings)
    (expected,), (found,) = run(path, x=x), run(target, x=x)
    assert np.abs(found - expected).max() < 0.6  # three layers, steps of 0.07 summed over 32 inputs of weight 0.2
    assert kernels(target, x=x).fraction == 1
