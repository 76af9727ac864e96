"""CPU: onnxruntime's own kernels, always there."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.machine import processor
from qonnx_pipe.runtime.needs import ANY, Needs


@dataclass(frozen=True, kw_only=True)
class _Cpu(Bundled):
    @property
    def install(self) -> str:
        return "pip install onnxruntime"

    def device(self) -> str:
        return processor()

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        del options  # the defaults are right
        return {"providers": [self.ep]}


PROVIDER = _Cpu(
    name="cpu",
    title="CPU (onnxruntime's own kernels)",
    ep="CPUExecutionProvider",
    requirements=("onnxruntime",),
    needs=Needs({"Linux": ANY, "Darwin": ANY, "Windows": ANY}),
    int8="u8 or s8 × s8",
)
