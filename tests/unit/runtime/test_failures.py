"""onnxruntime's messages in brief."""

import pytest

from qonnx_pipe.runtime.failures import brief


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : no such library\nstack", "no such library"),
        (
            "/src/onnxruntime/python/state.cc:729 void onnxruntime::Register(A&, const B&) Please install it.",
            "Please install it.",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : /src/env.cc:327 T::T(int (*)(int, P*), Q) const failed",
            "failed",
        ),
        ("Load model from m.onnx failed:std::bad_alloc", "out of memory: Load model from m.onnx failed:std::bad_alloc"),
        ("", "RuntimeError"),
    ],
)
def test_brief(text: str, told: str) -> None:
    assert brief(RuntimeError(text)) == told
