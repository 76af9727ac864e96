"""OpenVINO: Intel's compiler, a plugin that names its kernels, or bundled with an older onnxruntime, which does not."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.bundled import Bundled
from qonnx_pipe.runtime.needs import X86, Needs
from qonnx_pipe.runtime.plugin import Plugin

EP = "OpenVINOExecutionProvider"

PREFIX = "OV::"
"""How the profile begins the names of OpenVINO's own operations."""

INTEGER = ("_i8", "_u8")
"""How OpenVINO ends the names of kernels that compute in integers, in any case: brgemm_avx512_I8."""

WEIGHTED = "FullyConnected"
"""How OpenVINO begins the names of operations that multiply by a constant matrix."""


@dataclass(frozen=True, kw_only=True)
class _Bundled(Bundled):
    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        return {"device_type": "CPU", **_settings(options)}


BUNDLED = _Bundled(
    name="openvino",
    title="OpenVINO (Intel processors)",
    ep=EP,
    requirements=("onnxruntime-openvino==1.24.1",),
    needs=Needs({"Linux": X86, "Windows": X86}),
    int8="u8 or s8 × s8",
    compiles=True,
)
"""It takes any x86-64 processor; the plugin takes Intel's alone."""


@dataclass(frozen=True, kw_only=True)
class _OpenVino(Plugin):
    """The plugin where it is installed, else the bundled build where this onnxruntime is one."""

    @property
    def requirements(self) -> tuple[str, ...]:
        return BUNDLED.requirements

    def version(self) -> str | None:
        return super().version() or BUNDLED.version()

    def device(self) -> str:
        return super().device() if super().version() else BUNDLED.device()

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        return super().session_arguments(options) if super().version() else BUNDLED.session_arguments(options)

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        return _settings(options)

    def events(self, log: Sequence[dict[str, Any]], folder: Path) -> tuple[Event, ...]:
        del folder
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


def _settings(options: ort.SessionOptions) -> dict[str, str]:
    """Float is float32, as everywhere; left alone, OpenVINO takes bfloat16 where the processor has it."""
    settings = {"CPU": {"INFERENCE_NUM_THREADS": options.intra_op_num_threads, "INFERENCE_PRECISION_HINT": "f32"}}
    return {"load_config": json.dumps(settings)}


PROVIDER = _OpenVino(
    name=BUNDLED.name,
    title=BUNDLED.title,
    ep=EP,
    package="onnxruntime-ep-openvino",
    module="onnxruntime_ep_openvino",
    hardware="Intel processor",
    kind="CPU",
    needs=BUNDLED.needs,
    int8=BUNDLED.int8,
    compiles=True,
)
