"""QNN: Qualcomm's NPU (HTP), a plugin beside stock onnxruntime; on x86-64 its library simulates the NPU bit by bit."""

from __future__ import annotations

import csv
import importlib
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.needs import ANY, Needs
from qonnx_pipe.runtime.plugin import Plugin

EP = "QNNExecutionProvider"

SIMULATED = ("x86_64", "AMD64")
"""Processors that no NPU stands beside."""

SIMULATED_ARCH = "73"
"""The generation that is simulated, that of the Snapdragon 8 Gen 2: the first to multiply two 16-bit activations."""

PROFILE = "qnn.csv"
"""How the file ends that QNN's own profile goes to, beside onnxruntime's."""

NODE = "NODE"
"""Kind of the profile's lines about one operator: `<node>:OpId_<number> (cycles)`."""


@dataclass(frozen=True, kw_only=True)
class _Qnn(Plugin):
    @property
    def static(self) -> bool:
        return True

    @property
    def simulated(self) -> bool:
        return platform.machine() in SIMULATED

    def device(self) -> str:
        return f"simulator of the NPU (HTP v{SIMULATED_ARCH})" if self.simulated else super().device()

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        found = {"backend_path": str(importlib.import_module(self.module).get_qnn_htp_path())}
        if self.simulated:
            found["htp_arch"] = SIMULATED_ARCH
        if options.enable_profiling:
            profile = f"{options.profile_file_prefix}_{PROFILE}"
            found |= {"profiling_level": "detailed", "profiling_file_path": profile}
        return found

    def events(self, log: Sequence[dict[str, Any]], folder: Path) -> tuple[Event, ...]:
        """An NPU computes in integers whatever stands between quantizers; durations are thousands of its cycles."""
        del log
        cycles: dict[str, list[float]] = defaultdict(list)
        for path in folder.glob(f"*_{PROFILE}"):
            with path.open(encoding="utf-8", newline="") as lines:
                for line in csv.DictReader(lines):
                    if line.get("Message") == NODE:
                        cycles[line["Event Identifier"].rpartition(":OpId_")[0]].append(float(line["Time"]))
        return tuple(
            Event(node, "HTP", EP, sum(times) / len(times) / 1000, True) for node, times in cycles.items() if node
        )


PROVIDER = _Qnn(
    name="qnn",
    title="QNN (Qualcomm NPUs; simulated on x86-64)",
    ep=EP,
    package="onnxruntime-qnn",
    module="onnxruntime_qnn",
    hardware="Qualcomm NPU",
    kind="CPU" if platform.machine() in SIMULATED else "NPU",
    needs=Needs({"Linux": ANY, "Windows": ANY}),
    int8="u8 or u16 × s8",
    compiles=True,
)
