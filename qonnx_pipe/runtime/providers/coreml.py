"""Core ML: Apple's compiler, part of onnxruntime's package for macOS; it has no integer MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.needs import ANY, Needs


@dataclass(frozen=True, kw_only=True)
class _CoreMl(Bundled):
    @property
    def install(self) -> str:
        return "pip install onnxruntime"

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        del options
        return {"ModelFormat": "MLProgram"}  # the older format knows fewer operators


PROVIDER = _CoreMl(
    name="coreml",
    title="Core ML (Apple processors)",
    ep="CoreMLExecutionProvider",
    requirements=("onnxruntime",),
    needs=Needs({"Darwin": ANY}),
    int8="none",
    compiles=True,
)
