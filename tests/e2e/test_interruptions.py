"""Ctrl-C, kill -9 between building and publishing, two runs at once: nothing is lost, nothing is half."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qonnx_pipe.cli import main
from tests.zoo.projects import Project

pytestmark = pytest.mark.export
ROOT = Path(__file__).parents[2]


def qpipe(*arguments: object, cache: Path, code: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, after some `code`."""
    program = f"{code}\nimport sys\nfrom qonnx_pipe.cli import main\nsys.exit(main())\n"
    environment = {**os.environ, "QPIPE_CACHE": str(cache)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def finished(project: Callable[..., Project], tmp_path: Path) -> Project:
    return project().copy_of_the_run(tmp_path)


def test_two_runs_at_once_do_not_disturb_each_other(finished: Project, tmp_path: Path) -> None:
    environment = {**os.environ, "QPIPE_CACHE": str(finished.cache)}
    words = [sys.executable, "-m", "qonnx_pipe", "run", str(finished.recipe), "--until", "quantize", "--from", "plan"]
    running = [subprocess.Popen([*words, "--out", str(tmp_path / name)], env=environment, stderr=-3) for name in "ab"]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert content(tmp_path / "a") == content(tmp_path / "b")


STOPPED = """
import os, shutil, signal
from pathlib import Path
from qonnx_pipe import pipeline
from qonnx_pipe.store import Store
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have it ignored
publish = Store._publish
def stop(store, scratch, entry):
    if entry.stage == {stage!r}:
        os.kill(os.getpid(), signal.{name})
    return publish(store, scratch, entry)
Store._publish = stop
"""


def without(project: Project, stages: tuple[str, ...]) -> None:
    """Take these stages' entries out of the cache, and the run directory away."""
    for record in sorted(project.cache.rglob("entry.json")):
        if json.loads(record.read_bytes())["stage"] in stages:
            shutil.rmtree(record.parent)
    shutil.rmtree(project.out)


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Gives the same command again, here, and says which stages it recomputed."""

    def run(*words: object, cache: Path) -> list[str]:
        monkeypatch.setenv("QPIPE_CACHE", str(cache))
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["recomputed"]

    return run


def test_kill_9_between_building_and_publishing(finished: Project, resumed: Callable[..., list[str]]) -> None:
    before = content(finished.out)
    without(finished, ("quantize",))
    words = ("run", finished.recipe, "--out", finished.out)
    killed = qpipe(*words, cache=finished.cache, code=STOPPED.format(stage="quantize", name="SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    assert resumed(*words, cache=finished.cache) == ["quantize"]
    assert content(finished.out) == before


def test_ctrl_c_is_exit_5_and_resumes(finished: Project, resumed: Callable[..., list[str]]) -> None:
    before = content(finished.out)
    without(finished, ("calibrate", "quantize"))
    code = STOPPED.format(stage="calibrate", name="SIGINT")
    words = ("run", finished.recipe, "--out", finished.out)
    stopped = qpipe(*words, cache=finished.cache, code=code)
    assert stopped.returncode == 5
    assert "interrupted; what is done is kept" in stopped.stderr
    assert "resume with the same command" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert resumed(*words, cache=finished.cache) == ["calibrate", "quantize"]
    assert content(finished.out) == before
