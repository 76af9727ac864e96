"""Facts about the machine, from what Linux says where it is Linux."""

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


def test_every_fact_is_a_plain_value() -> None:
    facts = machine.facts()
    assert {"processor", "flags", "cores", "governor", "memory_mb", "system", "kernel", "onnxruntime"} <= facts.keys()
    assert all(isinstance(value, str | int) for value in facts.values())
    assert facts["cores"] >= 1
