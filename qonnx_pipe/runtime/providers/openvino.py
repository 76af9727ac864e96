"""OpenVINO: Intel's compiler, a plugin beside stock onnxruntime; it takes whole subgraphs and names its kernels."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.errors import ProviderError

PACKAGE = "onnxruntime-ep-openvino"
EP = "OpenVINOExecutionProvider"

PREFIX = "OV::"
"""How the profile begins the names of OpenVINO's own operations."""

INTEGER = ("_i8", "_u8")
"""How OpenVINO ends the names of kernels that compute in integers, in any case: brgemm_avx512_I8."""

WEIGHTED = "FullyConnected"
"""How OpenVINO begins the names of operations that multiply by a constant matrix."""


@dataclass(frozen=True)
class _OpenVino:
    name: str = "openvino"
    title: str = "OpenVINO (Intel processors)"
    install: str = f"pip install {PACKAGE}; it works on Intel hardware only"
    ep: str = EP
    compiles: bool = True

    def version(self) -> str | None:
        try:
            return metadata.version(PACKAGE)
        except metadata.PackageNotFoundError:
            return None

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        kind = ort.OrtHardwareDeviceType.CPU
        devices = [device for device in _devices() if device.ep_name == EP and device.device.type == kind]
        if not devices:
            raise ProviderError(f"{PACKAGE} finds no Intel processor here", fix="run on a machine that has one")
        # Float is float32, as everywhere; left alone, OpenVINO takes bfloat16 where the processor has it.
        settings = {"CPU": {"INFERENCE_NUM_THREADS": options.intra_op_num_threads, "INFERENCE_PRECISION_HINT": "f32"}}
        options.add_provider_for_devices(devices[:1], {"load_config": json.dumps(settings)})
        return {}

    def events(self, log: Sequence[dict[str, Any]]) -> tuple[Event, ...]:
        durations: dict[tuple[str, str], list[float]] = defaultdict(list)
        for entry in log:
            detail = entry.get("args", {})
            if entry["name"].startswith(PREFIX) and detail.get("ov_node_type", "").startswith(WEIGHTED):
                kernel = f"{detail['ov_node_type']} {detail['ov_exec_type']}"
                durations[entry["name"].removeprefix(PREFIX), kernel].append(float(entry["dur"]))
        return tuple(
            Event(node, kernel, EP, sum(warm := times[1:] or times) / len(warm), kernel.lower().endswith(INTEGER))
            for (node, kernel), times in durations.items()
        )


def _devices() -> Sequence[ort.OrtEpDevice]:
    """All devices that onnxruntime sees, with the plugin's; a library can be registered once in a process."""
    if all(device.ep_name != EP for device in ort.get_ep_devices()):
        plugin = importlib.import_module("onnxruntime_ep_openvino")
        ort.register_execution_provider_library(EP, plugin.get_library_path())
    return tuple(ort.get_ep_devices())


PROVIDER = _OpenVino()
