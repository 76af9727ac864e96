"""Facts about the machine, from what Linux says where it is Linux."""

import os
from pathlib import Path

import pytest

from qonnx_pipe.runtime import machine


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /proc/cpuinfo and all that lies beside it."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_lines", lambda _: path.read_text(encoding="utf-8").splitlines())
    return path


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("flags\t\t: fpu avx512_vnni avx2 avx512f avx512_vnni_not", ("avx2", "avx512f", "avx512_vnni")),
        ("Features\t: fp asimd asimddp i8mm", ("asimd", "asimddp", "i8mm")),
        ("model name\t: avx2", ()),
    ],
)
def test_flags(cpuinfo: Path, line: str, flags: tuple[str, ...]) -> None:
    cpuinfo.write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert machine.flags() == flags


def test_governors(tmp_path: Path) -> None:
    assert machine.governor(tmp_path) == "unknown"
    for core, name in enumerate(("powersave", "performance", "powersave")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n", encoding="utf-8")
    assert machine.governor(tmp_path) == "performance powersave"


def test_processes_that_were_killed_for_memory(cpuinfo: Path) -> None:
    cpuinfo.write_text("pgfault 12\noom_kill 3\noom_killer 9\n", encoding="utf-8")
    assert machine.memory_kills() == 3
    cpuinfo.write_text("", encoding="utf-8")
    assert machine.memory_kills() == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_cores_are_picked_one_of_each_physical_core_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
    for core, siblings in {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}.items():
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n", encoding="utf-8")
    assert machine.pick(1, tmp_path) == (0,)
    assert machine.pick(3, tmp_path) == (0, 2, 5)
    assert machine.pick(4, tmp_path) == (0, 1, 2, 5)
    assert machine.pick(None, tmp_path) == machine.pick(9, tmp_path) == (0, 1, 2, 3, 5)


def test_settings_say_what_timed_workers_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pick", lambda threads: (4, 6))
    assert machine.settings(2) == {"threads": 2, "affinity": "4 6"}
    monkeypatch.setattr(machine, "pick", lambda threads: ())
    assert machine.settings(3) == {"threads": 3, "affinity": "not set"}


def test_every_fact_is_a_plain_value() -> None:
    facts = machine.facts()
    assert {"processor", "flags", "cores", "governor", "memory_mb", "system", "kernel", "onnxruntime"} <= facts.keys()
    assert all(isinstance(value, str | int) for value in facts.values())
    assert facts["cores"] >= 1
