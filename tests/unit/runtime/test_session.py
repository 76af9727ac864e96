"""Sessions run models, and turn onnxruntime's failures into clear errors."""

import numpy as np
import onnx
import pytest

from qonnx_pipe.errors import DataError, ModelError, ProviderError
from qonnx_pipe.runtime.session import evaluate, open_session
from tests.zoo import graphs

X = np.random.default_rng(0).normal(size=(2, 4, graphs.WIDTH)).astype(np.float32)


def test_evaluate_gives_the_outputs_by_name(tmp_path):
    outputs = evaluate(graphs.float_matmul(tmp_path / "m.onnx"), {"x": X, "unused": X})
    assert outputs.keys() == {"y"}
    np.testing.assert_allclose(outputs["y"], X @ graphs.weight(), atol=1e-4)  # float32 sums of 32 products


def test_the_integer_kernel_multiplies_the_numbers_that_the_file_means(tmp_path):
    (y,) = evaluate(graphs.qdq_matmul(tmp_path / "m.onnx"), {"x": X}).values()
    step = np.float32(8 / 255)
    activation = (np.clip(np.rint(X / step) + 128, 0, 255) - 128) * step
    codes, scale = graphs.weight_codes(graphs.weight())
    np.testing.assert_allclose(y, activation @ (codes * scale), atol=1e-4)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such ONNX file"):
        evaluate(tmp_path / "none.onnx", {})


@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_a_truncated_file(tmp_path, keep):
    path = graphs.float_matmul(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        open_session(path)
    assert caught.value.where == str(path)
    assert "Traceback" not in str(caught.value)


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(DataError, match=r"without data for \['x'\]"):
        evaluate(graphs.float_matmul(tmp_path / "m.onnx"), {})


@pytest.mark.parametrize("x", [X.astype(np.float64), X[0], X[..., :3]])
def test_inputs_of_another_type_or_shape(tmp_path, x):
    with pytest.raises(DataError, match="do not fit the model"):
        evaluate(graphs.float_matmul(tmp_path / "m.onnx"), {"x": x})


def test_a_kernel_that_refuses_to_run_is_a_provider_failure(tmp_path, capfd):
    with pytest.raises(ProviderError, match=r"provider failed: cpu: .*must be a scalar"):
        evaluate(graphs.qdq_matmul(tmp_path / "m.onnx", per_axis=True), {"x": X})
    capfd.readouterr()  # onnxruntime logs the error too


def test_an_unknown_provider_lists_the_known_ones(tmp_path):
    with pytest.raises(ProviderError, match="unknown execution provider 'tpu'") as caught:
        open_session(graphs.float_matmul(tmp_path / "m.onnx"), "tpu")
    assert "cpu" in caught.value.fix
    assert caught.value.exit_code == 4


def test_a_file_can_ask_for_a_session_without_fusion(tmp_path):
    """Per-axis activations, which fail where onnxruntime fuses them, compute what they say."""
    path = graphs.qdq_matmul(tmp_path / "m.onnx", per_axis=True)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"qonnx_pipe.session": "session.disable_quant_qdq=1"})
    onnx.save(model, path)
    (y,) = evaluate(path, {"x": X}).values()
    (expected,) = evaluate(graphs.qdq_matmul(tmp_path / "tensor.onnx"), {"x": X}).values()
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_a_file_that_asks_for_anything_else_is_refused(tmp_path):
    path = graphs.float_matmul(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"qonnx_pipe.session": "session.load_model_format=ORT"})
    onnx.save(model, path)
    with pytest.raises(ModelError, match="unknown session entry") as caught:
        open_session(path)
    assert caught.value.where == str(path)
    assert "qonnx_pipe.session" in caught.value.fix
