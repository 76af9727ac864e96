"""A file is whole or not there, and the disk's refusals are errors with a way out."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from qonnx_pipe.core.files import atomic_directory_write, is_free, locked, write_atomic, write_json, writing
from qonnx_pipe.errors import Interrupted, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_text_bytes_and_json(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep/er/a.txt", "é")
    write_atomic(tmp_path / "b.bin", b"\0\xff")
    write_json(tmp_path / "c.json", {"a": [1, "é"]})
    assert (tmp_path / "deep/er/a.txt").read_bytes() == b"\xc3\xa9"
    assert (tmp_path / "b.bin").read_bytes() == b"\0\xff"
    assert json.loads((tmp_path / "c.json").read_bytes()) == {"a": [1, "é"]}
    assert names(tmp_path) == ["b.bin", "c.json", "deep"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "old")

    def interrupted() -> None:
        with atomic_directory_write(tmp_path) as scratch:
            (scratch / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(Interrupted) as caught:
        write_atomic(tmp_path / "a", b"x" * 100)
    assert "free 90 bytes" in caught.value.fix
    assert caught.value.where == str(tmp_path)
    assert caught.value.exit_code == 5
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_refused(code: int) -> None:
    with pytest.raises(UsageError) as caught, writing(Path("/somewhere")):
        raise OSError(code, os.strerror(code), "/somewhere/else")
    assert caught.value.where == "/somewhere/else"
    assert os.strerror(code) in caught.value.what
    assert caught.value.exit_code == 2


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "x")
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomic(tmp_path / "a/b", "y")


def test_other_errors_pass() -> None:
    with pytest.raises(FileNotFoundError), writing(Path("a")):
        raise FileNotFoundError(errno.ENOENT, "input is missing")


HOLD = """
import sys, time
from pathlib import Path
from qonnx_pipe.core.files import {name}
with {name}(Path(sys.argv[1])){alias}:
    print("in", flush=True)
    time.sleep(60)
"""


def _hold(name: str, path: Path, alias: str = "") -> subprocess.Popen[str]:
    code = HOLD.format(name=name, alias=alias)
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    return child


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_lock_dies_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert is_free(lock)
    child = _hold("locked", lock)
    try:
        assert not is_free(lock)
    finally:
        _kill(child)
    assert is_free(lock)
    with locked(lock):
        pass


def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    dead, living = _hold("atomic_directory_write", tmp_path), _hold("atomic_directory_write", tmp_path)
    try:
        _kill(dead)
        assert len(names(tmp_path)) == 2
        for scratch in tmp_path.iterdir():
            os.utime(scratch, (time.time() - 3600,) * 2)
        write_atomic(tmp_path / "a", "x")
        assert len(names(tmp_path)) == 2
        assert "a" in names(tmp_path)
    finally:
        _kill(living)
