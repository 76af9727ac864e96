"""Where the cache lies: the variables of the environment, in their order."""

from pathlib import Path

import pytest

from qonnx_pipe.core.places import cache_root


def test_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("QPIPE_CACHE", raising=False)
    assert cache_root() == tmp_path / ".cache/qonnx_pipe"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification: ignore it
    assert cache_root() == tmp_path / ".cache/qonnx_pipe"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/qonnx_pipe")
    monkeypatch.setenv("QPIPE_CACHE", "/mine")
    assert cache_root() == Path("/mine")
