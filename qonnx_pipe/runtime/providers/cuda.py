"""CUDA: NVIDIA GPUs, node by node, in a build of onnxruntime of its own; it has no integer MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.needs import X86, Needs

GPU_BUILD = "onnxruntime-gpu[cuda,cudnn]==1.31.1"
"""With the packages of CUDA and cuDNN that it was built for."""

NVIDIA = Needs({"Linux": X86, "Windows": X86}, nvidia=True)


@dataclass(frozen=True, kw_only=True)
class NvidiaBuild(Bundled):
    """A provider of that build."""

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        """None; CUDA's libraries are loaded from their packages, where these are installed."""
        del options
        ort.preload_dlls()
        return {}


PROVIDER = NvidiaBuild(
    name="cuda",
    title="CUDA (NVIDIA GPUs)",
    ep="CUDAExecutionProvider",
    requirements=(GPU_BUILD,),
    needs=NVIDIA,
    int8="none",
)
