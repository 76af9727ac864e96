"""CPU: onnxruntime's own kernels, always there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event


@dataclass(frozen=True)
class _Cpu:
    name: str = "cpu"
    title: str = "CPU (onnxruntime's own kernels)"
    install: str = "pip install onnxruntime"
    ep: str = "CPUExecutionProvider"
    compiles: bool = False

    def version(self) -> str | None:
        return str(ort.__version__)

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        del options  # the defaults are right
        return {"providers": [self.ep]}

    def events(self, log: Sequence[dict[str, Any]]) -> tuple[Event, ...]:
        del log  # onnxruntime names its kernels itself
        return ()


PROVIDER = _Cpu()
