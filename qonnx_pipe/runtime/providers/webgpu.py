"""WebGPU: GPUs of all makers through Vulkan, Direct3D or Metal, a plugin; it has no integer MatMul."""

from __future__ import annotations

from qonnx_pipe.runtime.needs import ANY, Needs
from qonnx_pipe.runtime.plugin import Plugin

PROVIDER = Plugin(
    name="webgpu",
    title="WebGPU (GPUs of all makers)",
    ep="WebGpuExecutionProvider",
    package="onnxruntime-ep-webgpu",
    module="onnxruntime_ep_webgpu",
    hardware="GPU with a Vulkan, Direct3D 12 or Metal driver",
    kind="GPU",
    needs=Needs({"Linux": ANY, "Windows": ANY, "Darwin": ANY}),
    int8="none",
)
