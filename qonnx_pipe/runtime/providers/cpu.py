"""CPU: onnxruntime's own kernels, always there."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort


@dataclass(frozen=True)
class _Cpu:
    name: str = "cpu"
    title: str = "CPU (onnxruntime's own kernels)"
    install: str = "pip install onnxruntime"

    def version(self) -> str | None:
        return str(ort.__version__)

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        del options  # the defaults are right
        return {"providers": ["CPUExecutionProvider"]}


PROVIDER = _Cpu()
