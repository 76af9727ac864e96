"""Fixtures of tests that run commands in a folder of their own: a copy of the module's `origin`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.learning import Run


@pytest.fixture
def place(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the module's `origin`, its cache included, as working directory."""
    folder = shutil.copytree(origin, tmp_path / "place")
    monkeypatch.setenv("QPIPE_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def qpipe(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`qpipe(*words)`: exit code, stdout and stderr of a command that runs there."""
    from qonnx_pipe.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words)])
        return code, *capsys.readouterr()

    return run
