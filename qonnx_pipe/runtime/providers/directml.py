"""DirectML: any GPU under Windows, in a build of onnxruntime of its own, which its makers no longer develop."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.needs import X86, Needs


@dataclass(frozen=True, kw_only=True)
class _DirectMl(Bundled):
    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        options.enable_mem_pattern = False  # it refuses sessions with either
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        return {"device_id": "0"}


PROVIDER = _DirectMl(
    name="directml",
    title="DirectML (GPUs under Windows)",
    ep="DmlExecutionProvider",
    requirements=("onnxruntime-directml==1.24.4",),
    needs=Needs({"Windows": X86}),
    int8="u8 or s8 × s8",
    compiles=True,
)
