"""Machine: what the figures were measured on, and how much memory this process ever held."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections import Counter
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Instructions that int8 kernels are written for, as Linux names them: asimd is Neon, asimddp its dot product."""


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick(threads: int | None, devices: Path = CPUS) -> tuple[int, ...]:
    """Cores for so many threads, of those that this process may use: one of each physical core before its second.

    None: all of them. Empty where a process cannot be bound to cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    turns: Counter[str] = Counter()
    ranked = []
    for core in sorted(os.sched_getaffinity(0)):
        siblings = "".join(_lines(devices / f"cpu{core}" / "topology" / "thread_siblings_list")) or str(core)
        ranked.append((turns[siblings], core))
        turns[siblings] += 1
    return tuple(sorted(core for _, core in sorted(ranked)[:threads]))


def settings(threads: int | None) -> dict[str, str | int]:
    """What timed workers are given: threads of a session, and the cores that they are bound to."""
    return {"threads": threads or cores(), "affinity": " ".join(map(str, pick(threads))) or "not set"}


def facts() -> dict[str, str | int]:
    """Processor with the flags that decide which kernels run, cores, governor, memory in MB, system, versions."""
    import onnxruntime as ort  # not at the top: a cached run asks for processor and cores alone

    return {
        "processor": processor(),
        "flags": " ".join(flags()),
        "cores": cores(),
        "governor": governor(),
        "memory_mb": memory_mb(),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }


def flags() -> tuple[str, ...]:
    """Those of FLAGS that the processor has, in that order; none where the system does not tell."""
    told = {flag for name in ("flags", "Features") for flag in _field(Path("/proc/cpuinfo"), name).split()}
    return tuple(flag for flag in FLAGS if flag in told)


def governor(devices: Path = CPUS) -> str:
    """How the cores choose their frequency, such as "performance"; "unknown" where the system does not tell."""
    files = sorted(devices.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return " ".join(sorted({file.read_text(encoding="utf-8").strip() for file in files})) or "unknown"


def memory_mb() -> int:
    """Main memory, in MB of 10⁶ bytes; 0 where the system does not tell."""
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6 if "SC_PHYS_PAGES" in names else 0


def memory_kills() -> int:
    """How many processes the kernel has killed since it started because memory ran out; 0 where it does not tell."""
    return int(next((line.split()[1] for line in _lines(Path("/proc/vmstat")) if line.startswith("oom_kill ")), 0))


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
    for line in _lines(path):
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
