"""The NPU's form computes what the model computed, for kept tokens; its tensors are found again by their old names."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qonnx_pipe.errors import ModelError
from qonnx_pipe.graph import io
from qonnx_pipe.graph.npu.form import MASKED, Form, npu_form
from tests.unit.graph.npu import tiny
from tests.zoo import graphs

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""Two float32 results of sums of 16 terms, one after the other, taken in another order."""

OPTIONS = [
    {},
    {"layers": 2},
    {"scaling": "mul"},
    {"scaling": "behind"},
    {"scaling": "both"},
    {"bias": False},
    {"norm_bias": False},
    {"mask": "none"},
]


def formed(source: Path, target: Path, shape: tuple[int, int] = tiny.SHAPE) -> Form:
    model = io.load(source)
    form = npu_form(model, shape)
    io.save(model, target)
    onnx.checker.check_model(target, full_check=True)
    return form


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_kept_tokens_are_computed_as_before(tmp_path: Path, options: dict) -> None:
    source = tiny.Encoder(**options).save(tmp_path / "float.onnx")
    formed(source, tmp_path / "form.onnx")
    feeds = tiny.inputs()
    before, after = tiny.run(source, feeds), tiny.run(tmp_path / "form.onnx", feeds)
    assert list(before) == list(after)
    for name, values in before.items():
        pair = (tiny.kept(found, feeds["attention_mask"]) for found in (after[name], values))
        np.testing.assert_allclose(*pair, **CLOSE, err_msg=name)


def test_rows_that_are_padding_throughout_hurt_nobody(tmp_path: Path) -> None:
    source = tiny.Encoder().save(tmp_path / "float.onnx")
    formed(source, tmp_path / "form.onnx")
    feeds = tiny.inputs()
    alone = tiny.run(tmp_path / "form.onnx", feeds)
    feeds["attention_mask"][1] = 0
    beside = tiny.run(tmp_path / "form.onnx", feeds)
    for name in alone:
        assert np.isfinite(beside[name]).all()
        np.testing.assert_allclose(beside[name][0], alone[name][0], **CLOSE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (3, 4)])
def test_every_shape_is_static_and_nothing_computes_one(tmp_path: Path, shape: tuple[int, int]) -> None:
    source = tiny.Encoder().save(tmp_path / "float.onnx")
    formed(source, tmp_path / "form.onnx", shape)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "form.onnx"), strict_mode=True).graph
    ports = {port.name: port for port in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        for name in node.output:
            assert all(size.HasField("dim_value") for size in ports[name].type.tensor_type.shape.dim), name
    assert not operators(tmp_path / "form.onnx") & Counter(["Shape", "Slice", "Where", "Expand", "Concat", "Div"])
    feeds = tiny.inputs(shape=shape)
    before, after = tiny.run(source, feeds), tiny.run(tmp_path / "form.onnx", feeds)
    np.testing.assert_allclose(after["logits"], before["logits"], **CLOSE)


def test_linear_layers_are_gemms_of_rows_under_their_names(tmp_path: Path) -> None:
    source = tiny.Encoder().save(tmp_path / "float.onnx")
    formed(source, tmp_path / "form.onnx")
    model = onnx.load(tmp_path / "form.onnx")
    stored = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    gemms = {node.name: node for node in model.graph.node if node.op_type == "Gemm"}
    layers = [f"l0.{name}.mm" for name in ("q", "k", "v", "out", "up", "h")]
    assert sorted(gemms) == sorted([*layers, "pooler", "logits"])
    assert all(not node.attribute for node in gemms.values()), "weights are stored [in, out]"
    assert stored[gemms["logits"].input[1]].shape == (tiny.D, tiny.CLASSES)
    assert len({gemms[name].input[0] for name in layers[:3]}) == 1, "three layers read the same rows"
    count = operators(tmp_path / "form.onnx")
    assert (count["MatMul"], count["Mul"]) == (2, 1), "scores and context; the mask's factor"


def test_the_mask_is_nothing_or_a_little_far_below(tmp_path: Path) -> None:
    source = tiny.Encoder(layers=2).save(tmp_path / "float.onnx")
    formed(source, tmp_path / "form.onnx")
    feeds = tiny.inputs()
    added = {node.input[1] for node in onnx.load(tmp_path / "form.onnx").graph.node if node.name.endswith(".masked")}
    assert len(added) == 1, "one for all layers"
    (values,) = (tiny.run(tmp_path / "form.onnx", feeds, name)[name] for name in added)
    np.testing.assert_array_equal(values, np.where(feeds["attention_mask"], 0, MASKED)[:, None, None, :])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_old_name_leads_to_the_same_elements(tmp_path: Path, options: dict) -> None:
    """What `homes` and `factors` say, for all but products without their bias; only order and shape may differ."""
    source = tiny.Encoder(**options).save(tmp_path / "float.onnx")
    form = formed(source, tmp_path / "form.onnx")
    feeds = tiny.inputs() | {"attention_mask": np.ones(tiny.SHAPE, np.int64)}
    names = [node.output[0] for node in onnx.load(source).graph.node if node.name.startswith(("l0.", "embedded"))]
    names = [name for name in names if name in form.homes]
    products = {"l0.q.mm", "l0.k.mm", "l0.v.mm", "l0.out.mm", "l0.up.mm", "l0.h.mm"}
    homes = {name: str(form.homes[name].name) for name in names if name not in products}
    before, after = tiny.run(source, feeds, *homes), tiny.run(tmp_path / "form.onnx", feeds, *homes.values())
    for name, home in homes.items():
        expected = np.sort(before[name] * form.factors.get(name, 1.0), axis=None)
        np.testing.assert_allclose(np.sort(after[home], axis=None), expected, **CLOSE, err_msg=name)


def test_a_mask_that_is_not_added_is_refused(tmp_path: Path) -> None:
    model = io.load(tiny.Encoder(mask="where").save(tmp_path / "float.onnx"))
    with pytest.raises(ModelError, match="mask is not added to the scores") as caught:
        npu_form(model, tiny.SHAPE)
    assert caught.value.where == "l0.p"
    assert caught.value.fix == "export the model with eager attention"


def test_a_factor_of_what_something_else_reads_stays(tmp_path: Path) -> None:
    source = tiny.Encoder().save(tmp_path / "float.onnx")
    model = onnx.load(source)
    model.graph.output.append(onnx.ValueInfoProto(name="l0.q"))
    onnx.save(onnx.shape_inference.infer_shapes(model), source)
    form = formed(source, tmp_path / "form.onnx")
    assert form.factors == {}
    assert operators(tmp_path / "form.onnx")["Div"] == 1
    feeds = tiny.inputs()
    before, after = tiny.run(source, feeds), tiny.run(tmp_path / "form.onnx", feeds)
    np.testing.assert_allclose(after["l0.q"], before["l0.q"], **CLOSE)
    np.testing.assert_allclose(after["logits"], before["logits"], **CLOSE)


def test_inputs_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    model = io.load(graphs.float_matmul(tmp_path / "float.onnx"))
    with pytest.raises(ModelError, match=r"'x' of rank 3 holds no tokens \[batch, sequence\]"):
        npu_form(model, tiny.SHAPE)


def test_a_sequence_without_positions_is_refused(tmp_path: Path) -> None:
    model = io.load(tiny.Encoder().save(tmp_path / "float.onnx"))
    with pytest.raises(ModelError, match=rf"no static shape for inputs \[1, {tiny.ROWS + 1}\]") as caught:
        npu_form(model, (1, tiny.ROWS + 1))
    assert caught.value.fix == "give a sequence that the model has positions for"


def test_positions_stand_once_for_each_row(tmp_path: Path) -> None:
    """The NPU's simulator broadcasts them wrongly."""
    formed(tiny.Encoder().save(tmp_path / "float.onnx"), tmp_path / "form.onnx")
    model = onnx.load(tmp_path / "form.onnx")
    (total,) = (node for node in model.graph.node if node.name == "sum")
    (added,) = (numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name in total.input)
    assert added.shape == (*tiny.SHAPE, tiny.D)
    np.testing.assert_array_equal(added[0], added[1])
