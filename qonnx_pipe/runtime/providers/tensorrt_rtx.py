"""TensorRT for RTX: NVIDIA's compiler for GPUs in personal computers, a plugin; it builds engines in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.core.places import cache_root
from qonnx_pipe.runtime.needs import ANY, X86, Needs
from qonnx_pipe.runtime.plugin import Plugin


@dataclass(frozen=True, kw_only=True)
class _TensorRtRtx(Plugin):
    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        del options
        kernels = cache_root() / "tensorrt-rtx"
        kernels.mkdir(parents=True, exist_ok=True)
        return {"nv_runtime_cache_path": str(kernels)}


PROVIDER = _TensorRtRtx(
    name="tensorrt-rtx",
    title="TensorRT for RTX (NVIDIA GPUs since Ampere)",
    ep="NvTensorRTRTXExecutionProvider",
    package="onnxruntime-ep-nv-tensorrt-rtx",
    module="onnxruntime_ep_nv_tensorrt_rtx",
    variants=("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12"),
    hardware="NVIDIA RTX GPU",
    kind="GPU",
    needs=Needs({"Linux": X86, "Windows": ANY}, nvidia=True),
    int8="s8 × s8, symmetric",
    compiles=True,
)
