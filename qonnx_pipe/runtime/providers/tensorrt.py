"""TensorRT: NVIDIA's compiler in the CUDA build of onnxruntime; engines are kept on disk, integers are symmetric."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.core.places import cache_root
from qonnx_pipe.runtime.providers.cuda import GPU_BUILD, NVIDIA, NvidiaBuild

LIBRARIES = "tensorrt_libs"
"""Module that loads TensorRT's libraries when it is imported, in NVIDIA's package of them."""


@dataclass(frozen=True, kw_only=True)
class _TensorRt(NvidiaBuild):
    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        super().settings(options)
        if importlib.util.find_spec(LIBRARIES):
            importlib.import_module(LIBRARIES)
        engines = cache_root() / "tensorrt"
        engines.mkdir(parents=True, exist_ok=True)
        return {
            "trt_int8_enable": "1",  # with QDQ in the file no calibration table is read
            "trt_engine_cache_enable": "1",  # an engine takes minutes to build
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(engines),
        }


PROVIDER = _TensorRt(
    name="tensorrt",
    title="TensorRT (NVIDIA GPUs)",
    ep="TensorrtExecutionProvider",
    requirements=(GPU_BUILD, "tensorrt-cu13-libs<11"),  # libnvinfer.so.10 is what it loads
    needs=NVIDIA,
    int8="s8 × s8, symmetric",
    compiles=True,
    next=("CUDAExecutionProvider",),
)
