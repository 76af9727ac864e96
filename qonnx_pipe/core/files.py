"""Files are written whole or not at all: a temporary name, fsync, rename, and the disk's refusals as our errors."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from qonnx_pipe.errors import Interrupted, UsageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
)
SCRATCH, LOCK = ".writing-", ".lock"
YOUNG_SECONDS = 60.0
"""A scratch folder younger than this is left alone: its owner may not have locked it yet."""


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what the disk says while `path` (of `size` bytes, where known) is written into errors with a way out.

    Raises Interrupted when the disk is full, UsageError when it refuses; other OSErrors pass.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename2 or error.filename or path)  # of a rename, where it should have gone
        if error.errno in FULL:
            raise Interrupted("the disk is full", where=where, fix=_room(path, size)) from error
        if error.errno in REFUSED:
            what = f"cannot be written ({os.strerror(error.errno or 0)})"
            raise UsageError(what, where=where, fix="name a folder that you may write") from error
        raise


@contextmanager
def atomic_directory_write(folder: Path, size: int = 0) -> Iterator[Path]:
    """A scratch folder; at the end of the block its files are synced and renamed into `folder`.

    After a failure or kill -9 the older files stand untouched; what a killed process left is removed by the next
    write. Every file is atomic; of several, the last by name goes first (`model.onnx.data` before `model.onnx`).
    Raises as `writing` does.
    """
    with writing(folder, size):
        make_folder(folder)
        _remove_abandoned(folder)
        scratch = folder / f"{SCRATCH}{secrets.token_hex(6)}"
        scratch.mkdir()
        try:
            with locked(scratch / LOCK):
                yield scratch
                for file in sorted(scratch.iterdir(), reverse=True):
                    if file.name != LOCK:
                        sync(file)
                        file.replace(folder / file.name)
                sync(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises as `writing` does; UsageError too where there can be none."""
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            raise UsageError("no folder can be made there", where=str(folder), fix="name another place") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all; folders above are made. Raises as `writing` does."""
    data = data.encode() if isinstance(data, str) else data
    with atomic_directory_write(path.parent, len(data)) as scratch:
        (scratch / path.name).write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, whole or not at all; ValueError for NaN. Raises as `writing` does."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other processes, waiting for it; the kernel frees it when its holder dies."""
    while True:
        with path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if _is_named(stream, path):  # its last holder may have removed the file that we waited for
                yield
                return


def is_free(path: Path) -> bool:
    """Whether no living process holds the lock file `path`."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False


def _is_named(stream: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(folder: Path) -> None:
    for scratch in folder.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):
            if time.time() - scratch.stat().st_mtime > YOUNG_SECONDS and is_free(scratch / LOCK):
                shutil.rmtree(scratch, ignore_errors=True)


def _room(path: Path, size: int) -> str:
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    left = shutil.disk_usage(place).free
    amount = f"free {size - left} bytes" if size > left else "free space"
    return f"{amount} on the disk of {place} ({left} bytes are left), then run the same command again"
