"""Reading and writing: every damage is one clear error, and a failed write leaves what stood there."""

import errno
import gc
import weakref
from contextlib import nullcontext

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from qonnx_pipe.errors import Interrupted, ModelError, NumericsError, UsageError
from qonnx_pipe.graph import io
from tests.zoo import graphs


@pytest.fixture
def path(tmp_path):
    return graphs.token_model(tmp_path / "model.onnx", classes=("no", "yes"))


@pytest.fixture
def beside(path):
    """The same model with its weights in a file beside it."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def arrays(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such ONNX file") as caught:
        io.load(tmp_path / "none.onnx")
    assert caught.value.where == str(tmp_path / "none.onnx")
    assert caught.value.fix


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"no model at all", b"PK\x03\x04" + b"\x00" * 60, b"\x08\x09"])
def test_a_file_that_is_no_model(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="not a readable ONNX model") as caught:
        io.load(tmp_path / "m.onnx")
    assert "\n" not in caught.value.what


def test_cut_anywhere_it_is_refused(path):
    data = path.read_bytes()
    end_of_graph = len(data) - 80  # what stands behind the graph: operator sets and metadata
    for length in [*range(0, end_of_graph, 97), end_of_graph]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match="not a readable ONNX model"):
            io.load(path)


def test_cut_behind_the_graph_it_is_refused_or_whole(path):
    data, whole = path.read_bytes(), arrays(io.load(path))
    refused = 0
    for length in range(len(data) - 80, len(data)):
        path.write_bytes(data[:length])
        try:
            found = io.load(path)
        except ModelError:
            refused += 1
        else:
            assert_same(arrays(found), whole)
            assert found.graph.opset_imports[""] == graphs.OPSET
    assert 70 < refused < 80


def test_a_node_that_reads_what_nothing_computes(path):
    model = onnx.load(path)
    model.graph.node[1].input[0] = "elsewhere"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="'matmul' reads 'elsewhere', which nothing computes"):
        io.load(path)


def test_external_data_are_read(beside, tmp_path):
    expected = arrays(io.load(graphs.token_model(tmp_path / "inside.onnx", classes=("no", "yes"))))
    assert_same(arrays(io.load(beside)), expected)


def test_external_data_missing(beside):
    (beside.parent / "weights.bin").unlink()
    with pytest.raises(ModelError, match="which is not there"):
        io.load(beside)


def test_external_data_too_short(beside):
    weights = beside.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is too short"):
        io.load(beside)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
def test_external_data_outside_of_the_folder(beside, location):
    model = onnx.load(beside, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    onnx.save(model, beside)
    with pytest.raises(ModelError, match="out of its folder"):
        io.load(beside)


def test_every_node_has_a_name_of_its_own(tmp_path):
    names = ("", "", "relu", "relu")
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name) for i, name in enumerate(names)]
    graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("v0", [1])], [graphs.tensor("v4", [1])], {})
    found = [node.name for node in io.load(tmp_path / "m.onnx").graph]
    assert len(set(found)) == len(names)
    assert all(found)
    assert "relu" in found


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(path, bad):
    model = io.load(path)
    io.check_finite(model, path)
    weight = model.graph.initializers["weight"]
    array = weight.const_value.numpy().copy()
    array[3, 4] = bad
    weight.const_value = ir.tensor(array, name="weight")
    with pytest.raises(NumericsError, match="'weight' holds NaN or infinity") as caught:
        io.check_finite(model, path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("values", "sound"), [([-np.inf], True), ([np.nan], False), ([np.inf], False), ([1, -np.inf], False)]
)
def test_one_value_of_minus_infinity_is_a_mask_and_no_weight(path, values, sound):
    model = io.load(path)
    weight = model.graph.initializers["weight"]
    weight.const_value = ir.tensor(np.float32(values), name="weight")
    with nullcontext() if sound else pytest.raises(NumericsError, match="NaN or infinity"):
        io.check_finite(model, path)


def test_saved_and_loaded_it_is_the_same(path, tmp_path):
    model = io.load(path)
    io.save(model, tmp_path / "new" / "copy.onnx")
    copy = io.load(tmp_path / "new" / "copy.onnx")
    assert_same(arrays(copy), arrays(model))
    assert copy.metadata_props == model.metadata_props
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["copy.onnx"]


def test_detached_tensors_are_the_same_and_hold_no_message(path):
    proto = onnx.load(path)
    proto.graph.node.append(helper.make_node("ConstantOfShape", [proto.graph.initializer[0].name], ["more"], "fill"))
    proto.graph.node[-1].attribute.append(
        helper.make_attribute("value", helper.make_tensor("", TensorProto.INT64, [1], [7]))
    )
    onnx.save(proto, path)
    model = io.load(path)
    before = arrays(model)
    io.detach(model)
    assert_same(arrays(model), before)
    fill = next(node for node in model.graph if node.name == "fill").attributes["value"].value
    assert fill.numpy().tolist() == [7]
    tensors = [fill, *(value.const_value for value in model.graph.initializers.values())]
    assert not any(isinstance(tensor, ir.TensorProtoTensor) for tensor in tensors)


def test_above_the_limit_weights_go_beside_the_model(path, tmp_path, monkeypatch):
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 1000)
    io.save(io.load(path), tmp_path / "big" / "big.onnx")
    assert sorted(entry.name for entry in (tmp_path / "big").iterdir()) == ["big.onnx", "big.onnx.data"]
    assert_same(arrays(io.load(tmp_path / "big" / "big.onnx")), arrays(io.load(path)))
    onnx.checker.check_model(str(tmp_path / "big" / "big.onnx"))


def test_weights_go_beside_the_model_where_that_is_asked(path, tmp_path):
    io.save(io.load(path), tmp_path / "saved.onnx", beside=True)
    assert (tmp_path / "saved.onnx.data").is_file()
    tensors = onnx.load(tmp_path / "saved.onnx", load_external_data=False).graph.initializer
    assert max(tensors, key=lambda tensor: np.prod(tensor.dims)).data_location == TensorProto.EXTERNAL


@pytest.mark.parametrize("beside", [False, True])
def test_before_a_large_model_is_read_those_that_nobody_uses_are_freed(path, tmp_path, monkeypatch, beside):
    io.save(io.load(path), tmp_path / "saved.onnx", beside=beside)
    monkeypatch.setattr(io, "LARGE", (tmp_path / "saved.onnx").stat().st_size - 1 + beside)
    gc.disable()
    try:
        unused = weakref.ref(io.load(tmp_path / "saved.onnx").graph)
        io.load(tmp_path / "saved.onnx")
        assert unused() is None
    finally:
        gc.enable()


def test_what_stood_in_external_data_is_written_too(beside, tmp_path):
    expected = arrays(io.load(beside))
    io.save(io.load(beside), tmp_path / "new" / "copy.onnx")
    assert_same(arrays(io.load(tmp_path / "new" / "copy.onnx")), expected)


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, Interrupted), (errno.EACCES, UsageError)])
def test_a_failed_write_leaves_the_older_files(path, tmp_path, monkeypatch, code, error):
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 1000)
    target = tmp_path / "out" / "model.onnx"
    io.save(io.load(path), target)
    before = {entry.name: entry.read_bytes() for entry in target.parent.iterdir()}

    def half(model, file, external_data=None):
        file.write_bytes(b"half")
        raise OSError(code, "no more")

    monkeypatch.setattr(ir, "save", half)
    with pytest.raises(error):
        io.save(io.load(path), target)
    assert {entry.name: entry.read_bytes() for entry in target.parent.iterdir()} == before


def test_a_folder_that_cannot_be(path, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError):
        io.save(io.load(path), tmp_path / "file" / "model.onnx")


def test_integer_weights_are_finite_by_nature(tmp_path):
    node = helper.make_node("Gather", ["table", "ids"], ["y"], "g")
    table = {"table": np.arange(6, dtype=np.int64)}
    ids, y = graphs.tensor("ids", [2], TensorProto.INT64), graphs.tensor("y", [2], TensorProto.INT64)
    model = graphs.save(tmp_path / "m.onnx", [node], [ids], [y], table)
    io.check_finite(io.load(model), model)
