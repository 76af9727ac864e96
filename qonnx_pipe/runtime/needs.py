"""Needs: the systems and processors that a provider's packages are made for, and the driver that it calls."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAMES = {"Darwin": "macOS"}
"""System → its name for people, where Python calls it otherwise."""

ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Processor as some systems call it → as Linux does."""

X86 = ("x86_64",)
ANY = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Needs:
    """`wheels`: system → processors with packages; none: in no package. `nvidia`: also a driver and so a GPU."""

    wheels: Mapping[str, tuple[str, ...]]
    nvidia: bool = False

    def missing(self) -> str:
        """What keeps a provider from this machine, such as "needs Windows"; "" when nothing is known to."""
        system, machine = platform.system(), platform.machine().lower()
        if not self.wheels:
            return "in no package: build onnxruntime with it"
        if system not in self.wheels:
            return f"needs {' or '.join(NAMES.get(name, name) for name in self.wheels)}"
        if ALIASES.get(machine, machine) not in self.wheels[system]:
            return f"needs a processor of type {' or '.join(self.wheels[system])}"
        return "no NVIDIA GPU: there is no driver" if self.nvidia and not _nvidia_driver() else ""


def _nvidia_driver() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
