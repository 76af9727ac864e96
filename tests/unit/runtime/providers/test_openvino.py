"""OpenVINO's profile becomes events; a machine without a device is an error that says so."""

from dataclasses import replace

import onnxruntime as ort
import pytest

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime.plugin import Plugin
from qonnx_pipe.runtime.providers import openvino

WHOLE = {"cat": "Node", "name": "OpenVINOExecutionProvider_1_0_kernel_time", "dur": 900, "args": {"op_name": "x"}}


def entry(name: str, kernel: str, micros: int, kind: str = "FullyConnected") -> dict:
    detail = {"ov_node_type": kind, "ov_exec_type": kernel, "ov_status": "EXECUTED"}
    return {"cat": "Kernel", "name": f"OV::{name}", "dur": micros, "args": detail}


def test_events_are_the_products_with_weights_by_their_names_in_the_file(tmp_path):
    log = [
        {"cat": "Session", "name": "model_loading", "dur": 5},
        WHOLE,
        *(entry("a/MatMul", "brgemm_avx512_I8", micros) for micros in (90, 10, 20)),
        entry("b/MatMul", "gemm_mlas_f32", 7),
        entry("c/MatMul", "brgemm_avx512_i8", 8, kind="FullyConnectedQuantizedLegacy"),
        entry("scores", "jit_avx512_f32", 3, kind="MatMul"),
    ]
    found = openvino.PROVIDER.events(log, tmp_path)
    assert found == (
        Event("a/MatMul", "FullyConnected brgemm_avx512_I8", openvino.EP, 15.0, integer=True),
        Event("b/MatMul", "FullyConnected gemm_mlas_f32", openvino.EP, 7.0, integer=False),
        Event("c/MatMul", "FullyConnectedQuantizedLegacy brgemm_avx512_i8", openvino.EP, 8.0, integer=True),
    )


def test_no_device_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Plugin, "version", lambda _: "1.8.1")
    monkeypatch.setattr(type(openvino.PROVIDER), "registered", lambda _: ())
    with pytest.raises(ProviderError, match="finds no Intel processor") as caught:
        openvino.PROVIDER.session_arguments(ort.SessionOptions())
    assert caught.value.fix


def test_without_its_package_there_is_no_version(monkeypatch: pytest.MonkeyPatch):
    assert replace(openvino.PROVIDER, package="no-such-distribution").version() is None
