"""`qpipe environment` with a pretended pip: what it installs, and what a refusal leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from qonnx_pipe.cli import main
from qonnx_pipe.runtime import environment, providers
from tests.zoo import interpreters

RUN = subprocess.run


class Pip:
    """Runs what makes an environment; in place of pip, borrows what is needed, or refuses."""

    def __init__(self, stderr: str = "") -> None:
        self.stderr, self.asked = stderr, ()

    def __call__(self, command, **options):
        if "pip" not in command:
            interpreters.bare(Path(command[-1]))
            return subprocess.CompletedProcess(command, 0, "", "")
        self.asked = command[command.index("install") + 1 :]
        return subprocess.CompletedProcess(command, bool(self.stderr), "", self.stderr)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    made = Pip()
    monkeypatch.setattr(environment, "subprocess", type("Pretended", (), {"run": staticmethod(made)}))
    return made


def test_it_is_made_tried_and_told(pip: Pip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["environment", "cpu", str(tmp_path / "a" / "env")]) == 0
    assert pip.asked == ("--quiet", "numpy", "onnxruntime")
    assert f"--python cpu={tmp_path}/a/env/bin/python" in capsys.readouterr().out


def test_a_refusal_of_pip_is_told_and_leaves_nothing(
    pip: Pip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip.stderr = "WARNING: slow\nERROR: older ones\nERROR: No matching distribution found for it\nnotice: upgrade\n"
    assert main(["environment", "directml", str(tmp_path / "env")]) == 4
    assert "no environment for directml: ERROR: No matching distribution found for it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be(pip: Pip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["environment", "xnnpack", str(tmp_path / "env")]) == 4
    assert main(["environment", "tpu", str(tmp_path / "env")]) == 4
    assert main(["environment", "cpu", str(tmp_path)]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert pip.asked == ()


@pytest.mark.parametrize("name", providers.known())
def test_builds_that_replace_onnxruntime_are_pinned_and_plugins_come_with_it(name: str) -> None:
    found = providers.find(name)
    packages = [one for one in found.requirements if one.startswith("onnxruntime")]
    assert "onnxruntime" in packages or all("==" in one for one in packages)
    assert bool(packages) == (name != "xnnpack")
    assert sys.executable not in found.install
