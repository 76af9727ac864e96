"""Machine: what the figures were measured on, and how much memory this process ever held."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def facts() -> dict[str, str | int]:
    """Processor, cores, system and versions."""
    import onnxruntime as ort  # not at the top: a cached run asks for processor and cores alone

    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }


def peak_rss() -> int:
    """Peak resident memory of this process, in bytes.

    Linux carries ru_maxrss over from the parent through fork and exec, so there the kernel's own high-water mark
    of the new image (VmHWM) is read.
    """
    if found := _field(Path("/proc/self/status"), "VmHWM"):
        return int(found.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """Name of the processor."""
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _field(path: Path, name: str) -> str:
    """Text behind the first "name:" of a /proc file; "" where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
