"""Store: what a stage made, under the digest of everything that determined it, trusted only when it verifies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qonnx_pipe import __version__
from qonnx_pipe.core.artifact import sha256_file, sha256_json
from qonnx_pipe.core.files import atomic_directory_write, is_free, locked, sync, write_json, writing
from qonnx_pipe.core.places import cache_root

RECORD = "entry.json"


@dataclass(frozen=True)
class Stored:
    """One file of an entry: its SHA-256 and its length in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """What one stage made: files by name relative to `directory`; `parents`: digests of what they were made from."""

    key: str
    stage: str
    directory: Path
    files: Mapping[str, Stored]
    parents: tuple[str, ...] = ()
    created_by: str = __version__

    def path(self, name: str) -> Path:
        """Where the file `name` lies in the store."""
        return self.directory / name


@dataclass(frozen=True)
class Damaged:
    """An entry that did not verify and was thrown away, and why."""

    key: str
    reason: str


class Store:
    """Entries under `root`: `entries/ab/<key>/` finished, `work/<key>/` being made, `locks/<key>` held by the maker.

    An entry comes and goes by one rename, so there is no half entry, whenever a process is killed. Of two processes
    that want the same key the first makes it, the second waits and takes it. `damaged` lists what was found broken.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_root()).absolute()
        self.damaged: list[Damaged] = []
        self._digests: dict[tuple[int, int, int, int], str] = {}

    def get(self, key: str) -> Entry | None:
        """The verified entry (sizes and full digests of every file), or None; a damaged one is removed."""
        with writing(self.root):
            found = self._verify(key)
            if isinstance(found, Damaged):
                with self._hold(key):
                    found = self._verified_or_removed(key)
            if found is not None:
                with suppress(OSError):  # a store that others own can still be read
                    os.utime(found.path(RECORD))
            return found

    def make(
        self, key: str, stage: str, build: Callable[[Path], None], parents: Sequence[str] = (), *, anew: bool = False
    ) -> Entry:
        """The entry of `key`; unless it is there already, `build(folder)` writes its files into an empty folder.

        `anew` builds in any case; an entry that is there stays until the new one takes its place.
        Raises what `build` raises; Interrupted when the disk is full, UsageError when the store cannot be written.
        Nothing is left of a failed build but its `workdir`.
        """
        with writing(self.root):
            self._clear_abandoned("entry", "removed")
            with self._hold(key):
                found = self._verified_or_removed(key)
                if found is not None and not anew:
                    return found
                scratch = self._work(key) / "entry"
                shutil.rmtree(scratch, ignore_errors=True)  # of a maker that was killed while we waited
                scratch.mkdir(parents=True)
                try:
                    build(scratch)
                    entry = self._publish(scratch, Entry(key, stage, self._directory(key), {}, tuple(parents)))
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
                shutil.rmtree(self._work(key), ignore_errors=True)
                return entry

    def workdir(self, key: str) -> Path:
        """A folder for the partial results of the build of `key`: it outlives a kill, and goes when `make` succeeds."""
        folder = self._work(key) / "resume"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def materialize(self, entry: Entry, names: Iterable[str], target: Path) -> None:
        """Copy files of an entry into the folder `target`, atomically; a file that agrees already is left alone."""
        for name in names:
            destination, fact = target / name, entry.files[name]
            if self._agrees(destination, fact):
                continue
            with atomic_directory_write(destination.parent, fact.size) as scratch:
                shutil.copyfile(entry.path(name), scratch / destination.name)
            self._digests[_stamp(destination)] = fact.sha256

    def size(self) -> int:
        """Bytes of all finished entries."""
        return sum(_bytes(folder) for folder in self._entries())

    def prune(self, max_bytes: int) -> tuple[str, ...]:
        """Remove the least recently used entries until `max_bytes` hold the rest, and unfinished work without a maker.

        Returns the keys of the removed entries.
        """
        with writing(self.root):
            self._clear_abandoned(".")
            entries = sorted(self._entries(), key=_last_used)
            total, removed = sum(map(_bytes, entries)), []
            for folder in entries:
                if total <= max_bytes:
                    break
                total -= _bytes(folder)
                with self._hold(folder.name):
                    self._remove(folder.name)
                removed.append(folder.name)
            return tuple(removed)

    def _directory(self, key: str) -> Path:
        return self.root / "entries" / key[:2] / key

    def _work(self, key: str) -> Path:
        return self.root / "work" / key

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / key

    def _entries(self) -> Iterator[Path]:
        return (self.root / "entries").glob("??/*")

    @contextmanager
    def _hold(self, key: str) -> Iterator[None]:
        lock = self._lock(key)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def _clear_abandoned(self, *parts: str) -> None:
        """Remove `parts` ("." is all) of every work folder that no living process holds."""
        for folder in [work / part for work in (self.root / "work").glob("*") for part in parts]:
            key = folder.relative_to(self.root / "work").parts[0]
            if folder.exists() and is_free(self._lock(key)):
                with self._hold(key):
                    shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, scratch: Path, entry: Entry) -> Entry:
        """Seal the built files and give them, with their record, the entry's name."""
        entry = replace(entry, files=dict(self._seal(scratch)))
        write_json(scratch / RECORD, _to_json(entry))
        entry.directory.parent.mkdir(parents=True, exist_ok=True)
        if entry.directory.exists():
            self._remove(entry.key)
        scratch.rename(entry.directory)
        sync(entry.directory.parent)
        return entry

    def _verified_or_removed(self, key: str) -> Entry | None:
        """What `get` answers; the lock of `key` is held."""
        found = self._verify(key)
        if not isinstance(found, Damaged):
            return found
        self._remove(key)
        self.damaged.append(found)
        return None

    def _remove(self, key: str) -> None:
        """Take an entry away by one rename, so that a kill leaves no half of it; the lock of `key` is held."""
        work = self._work(key)
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work / "removed", ignore_errors=True)
        self._directory(key).rename(work / "removed")
        shutil.rmtree(work / "removed")
        with suppress(OSError):  # partial results of a build stay
            work.rmdir()

    def _verify(self, key: str) -> Entry | Damaged | None:
        folder = self._directory(key)
        if not folder.exists():
            return None
        try:
            entry = _from_json(json.loads((folder / RECORD).read_bytes()), folder)
            wrong = [name for name, fact in entry.files.items() if not self._agrees(entry.path(name), fact)]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Damaged(key, f"{RECORD} is not readable ({error})")
        if entry.key != key:
            return Damaged(key, f"{RECORD} is that of {entry.key}")
        return Damaged(key, f"missing, truncated or changed: {', '.join(wrong)}") if wrong else entry

    def _seal(self, folder: Path) -> Iterator[tuple[str, Stored]]:
        """Bring every file below `folder` to the disk and say what it is."""
        for path in sorted(folder.rglob("*")):
            sync(path)
            if path.is_file():
                yield path.relative_to(folder).as_posix(), Stored(self._digest(path), path.stat().st_size)

    def _agrees(self, path: Path, fact: Stored) -> bool:
        return path.is_file() and path.stat().st_size == fact.size and self._digest(path) == fact.sha256

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, computed once while its inode, size and time of change stay."""
        stamp = _stamp(path)
        if stamp not in self._digests:
            self._digests[stamp] = sha256_file(path)
        return self._digests[stamp]


def key_of(
    stage: str, config: object, inputs: Mapping[str, str], libraries: Sequence[str], *, code: str | None = None
) -> str:
    """Key of what a stage would make now: SHA-256 of everything that determines it.

    `config` is plain JSON values, `inputs` name → SHA-256, `libraries` the distributions that the stage calls; the
    code is in it by its bytes: all of it, unless `code` says which part decides.
    """
    versions = {name: _version(name) for name in libraries}
    facts = {"stage": stage, "config": config, "inputs": dict(inputs), "libraries": versions}
    return sha256_json({**facts, "code": code or code_version()})


@cache
def code_version() -> str:
    """Version of this package and a digest of its source files."""
    folder = Path(__file__).parent
    sources = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digests = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in sources}
    return f"{__version__}+{sha256_json(digests)}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _to_json(entry: Entry) -> dict[str, object]:
    return {name: value for name, value in asdict(entry).items() if name != "directory"}


def _from_json(data: Mapping[str, Any], folder: Path) -> Entry:
    files = {name: Stored(fact["sha256"], fact["size"]) for name, fact in data["files"].items()}
    return Entry(data["key"], data["stage"], folder, files, tuple(data["parents"]), data["created_by"])


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _last_used(folder: Path) -> float:
    return (folder / RECORD).stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
