"""QNN: Qualcomm's NPU (HTP), a plugin beside stock onnxruntime; on x86-64 its library simulates the NPU bit by bit."""

from __future__ import annotations

import csv
import importlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.needs import ANY, Needs
from qonnx_pipe.runtime.plugin import Plugin

EP = "QNNExecutionProvider"

NO_NPU = platform.machine() in ("x86_64", "AMD64")
"""Whether this is a processor that no NPU stands beside."""

SIMULATED_ARCH = "73"
"""The generation that is simulated, that of the Snapdragon 8 Gen 2: the first to multiply two 16-bit activations."""

PROFILE = "qnn.csv"
"""How the file ends that QNN's own profile goes to, beside onnxruntime's."""

NODE = "NODE"
"""Kind of the profile's lines about one operator: `<node>:OpId_<number> (cycles)`."""


@dataclass(frozen=True, kw_only=True)
class _Qnn(Plugin):
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
        """An NPU computes in integers whatever stands between quantizers; it counts cycles, which are no time."""
        del log
        seen: dict[str, Event] = {}
        for path in folder.glob(f"*_{PROFILE}"):
            with path.open(encoding="utf-8", newline="") as lines:
                for line in csv.DictReader(lines):
                    if line.get("Message") == NODE:
                        node, known, _ = line["Event Identifier"].rpartition(":OpId_")
                        seen |= {node: Event(node, "HTP", EP, None, True)} if known else {}
        return tuple(seen.values())


PROVIDER = _Qnn(
    name="qnn",
    title="QNN (Qualcomm NPUs; simulated on x86-64)",
    ep=EP,
    package="onnxruntime-qnn",
    module="onnxruntime_qnn",
    hardware="Qualcomm NPU",
    kind="CPU" if NO_NPU else "NPU",
    needs=Needs({"Linux": ANY, "Windows": ANY}),
    int8="u8 or u16 × s8",
    compiles=True,
    static=True,
    simulated=NO_NPU,
)
