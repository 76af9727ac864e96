"""An entry is whole or not there: after kills, races, damage and full disks; and every ingredient changes its key."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import qonnx_pipe.store as store_module
from qonnx_pipe.errors import Interrupted, ModelError, UsageError
from qonnx_pipe.store import Entry, Store, key_of

KEY, OTHER = "a" * 64, "b" * 64


def build(text: str = "payload", name: str = "model.onnx") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return write


def forbidden(folder: Path) -> None:
    raise AssertionError("nothing should be built")


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestEntries:
    def test_made_once_then_found(self, root: Path) -> None:
        made = Store(root).make(KEY, "export", build(), parents=(OTHER,))
        found = Store(root).get(KEY)
        assert found == made == Store(root).make(KEY, "export", forbidden)
        assert found is not None
        assert (found.stage, found.parents, found.files["model.onnx"].size) == ("export", (OTHER,), 7)
        # sha256 of b"payload", from sha256sum
        expected = "239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5"
        assert found.files["model.onnx"].sha256 == expected
        assert found.path("model.onnx").read_text() == "payload"
        assert files(root) == [f"entries/aa/{KEY}/entry.json", f"entries/aa/{KEY}/model.onnx"]

    def test_absent(self, root: Path) -> None:
        assert Store(root).get(KEY) is None
        assert not root.exists()

    def test_nested_files(self, root: Path) -> None:
        entry = Store(root).make(KEY, "export", build(name="onnx/decoder.onnx"))
        assert entry.path("onnx/decoder.onnx").read_text() == "payload"

    def test_failed_build_leaves_no_entry(self, root: Path) -> None:
        def fail(folder: Path) -> None:
            build()(folder)
            raise ModelError("no")

        with pytest.raises(ModelError):
            Store(root).make(KEY, "export", fail)
        assert Store(root).get(KEY) is None
        assert files(root) == []


class TestDamage:
    @pytest.mark.parametrize(
        ("harm", "reason"),
        [
            (lambda folder: (folder / "model.onnx").write_text("paYload"), "model.onnx"),
            (lambda folder: (folder / "model.onnx").write_text("pay"), "model.onnx"),
            (lambda folder: (folder / "model.onnx").unlink(), "model.onnx"),
            (lambda folder: (folder / "entry.json").write_text('{"key"'), "entry.json"),
            (lambda folder: (folder / "entry.json").write_text("[]"), "entry.json"),
            (lambda folder: (folder / "entry.json").unlink(), "entry.json"),
        ],
    )
    def test_found_removed_and_made_again(self, root: Path, harm: Callable[[Path], object], reason: str) -> None:
        harm(Store(root).make(KEY, "export", build()).directory)
        store = Store(root)
        assert store.get(KEY) is None
        assert [damaged.key for damaged in store.damaged] == [KEY]
        assert reason in store.damaged[0].reason
        assert files(root) == []
        assert store.make(KEY, "export", build()).path("model.onnx").read_text() == "payload"

    def test_make_finds_damage_too(self, root: Path) -> None:
        Store(root).make(KEY, "export", build()).path("model.onnx").write_text("paYload")
        store = Store(root)
        assert store.make(KEY, "export", build("again")).path("model.onnx").read_text() == "again"
        assert len(store.damaged) == 1

    def test_entry_under_another_key(self, root: Path) -> None:
        entry = Store(root).make(KEY, "export", build())
        wrong = root / "entries" / OTHER[:2] / OTHER
        wrong.parent.mkdir()
        entry.directory.rename(wrong)
        store = Store(root)
        assert store.get(OTHER) is None
        assert KEY in store.damaged[0].reason


SLOW_BUILD = """
import os, sys, time
from pathlib import Path
from qonnx_pipe.store import Store
root, key, marks = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
store = Store(root)
def build(folder):
    (marks / str(os.getpid())).touch()
    (folder / "model.onnx").write_text(str(os.getpid()))
    (store.workdir(key) / "half").write_text("half")
    print("building", flush=True)
    time.sleep(float(sys.argv[4]))
print(store.make(key, "export", build).path("model.onnx").read_text(), flush=True)
"""


BUSY = """
import sys
from pathlib import Path
from qonnx_pipe.store import Store
store, number = Store(Path(sys.argv[1])), 0
print("busy", flush=True)
while True:
    entry = store.make(f"{number:064x}", "export", lambda folder: (folder / "model.onnx").write_bytes(bytes(300_000)))
    store.materialize(entry, ["model.onnx"], Path(sys.argv[2]))
    store.prune(1_500_000)
    number += 1
"""


def start(root: Path, marks: Path, seconds: float) -> subprocess.Popen[str]:
    marks.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SLOW_BUILD, str(root), KEY, str(marks), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_kill_in_a_build_leaves_no_entry_and_the_work(self, root: Path, tmp_path: Path) -> None:
        child = start(root, tmp_path / "marks", 60)
        assert child.stdout is not None
        assert child.stdout.readline() == "building\n"
        child.send_signal(signal.SIGKILL)
        child.communicate()
        store = Store(root)
        assert store.get(KEY) is None
        assert (store.workdir(KEY) / "half").read_text() == "half"
        store.make(OTHER, "export", build())  # any build clears what the dead one left, but not its partial results
        assert f"work/{KEY}/entry/model.onnx" not in files(root)
        assert f"work/{KEY}/resume/half" in files(root)
        store.make(KEY, "export", build())
        assert [name for name in files(root) if not name.startswith("entries/")] == []

    def test_race_is_won_once(self, root: Path, tmp_path: Path) -> None:
        children = [start(root, tmp_path / "marks", 0.3) for _ in range(3)]
        answers = [child.communicate(timeout=30)[0].split()[-1] for child in children]
        assert len(set(answers)) == 1
        assert [path.name for path in (tmp_path / "marks").iterdir()] == answers[:1]
        assert [name for name in files(root) if not name.startswith("entries/")] == []

    def test_the_waiting_one_takes_over_from_the_dead(self, root: Path, tmp_path: Path) -> None:
        first = start(root, tmp_path / "marks", 60)
        assert first.stdout is not None
        assert first.stdout.readline() == "building\n"
        second = start(root, tmp_path / "marks", 0)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert second.communicate(timeout=30)[0].split() == ["building", str(second.pid)]

    def test_kill_at_any_moment_leaves_no_half_entry(self, root: Path, tmp_path: Path) -> None:
        for moment in range(8):
            command = [sys.executable, "-c", BUSY, str(root), str(tmp_path / "run")]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.01 * moment)
            child.kill()
            child.communicate()
            store = Store(root)
            found = [store.get(folder.name) for folder in (root / "entries").glob("??/*")]
            assert None not in found
            assert store.damaged == []
            copy = tmp_path / "run/model.onnx"
            assert not copy.exists() or copy.stat().st_size == 300_000

    def test_prune_spares_a_living_build(self, root: Path, tmp_path: Path) -> None:
        child = start(root, tmp_path / "marks", 60)
        assert child.stdout is not None
        child.stdout.readline()
        Store(root).prune(0)
        assert f"work/{KEY}/entry/model.onnx" in files(root)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        Store(root).prune(0)
        assert not (root / "work" / KEY).exists()


class TestDisk:
    def test_full_while_building(self, root: Path) -> None:
        def fill(folder: Path) -> None:
            build()(folder)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.onnx"))

        with pytest.raises(Interrupted) as caught:
            Store(root).make(KEY, "export", fill)
        assert "bytes are left" in caught.value.fix
        assert files(root) == []

    def test_full_while_copying(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store(root)
        entry = store.make(KEY, "export", build())

        def full(source: Path, target: Path) -> None:
            target.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("shutil.copyfile", full)
        with pytest.raises(Interrupted):
            store.materialize(entry, ["model.onnx"], tmp_path / "run")
        assert list((tmp_path / "run").iterdir()) == []

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
    def test_read_only(self, root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        def refuse(self: Path, *args: object, **options: object) -> None:
            raise OSError(code, os.strerror(code), str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UsageError) as caught:
            Store(root).make(KEY, "export", build())
        assert caught.value.where.startswith(str(root))

    def test_root_under_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="cannot be written"):
            Store(tmp_path / "file/cache").make(KEY, "export", build())


class TestMaterialize:
    def test_copies_and_then_leaves_alone(self, root: Path, tmp_path: Path) -> None:
        store = Store(root)
        entry = store.make(KEY, "export", build())
        store.materialize(entry, ["model.onnx"], tmp_path / "run/float")
        copy = tmp_path / "run/float/model.onnx"
        inode = copy.stat().st_ino
        Store(root).materialize(entry, ["model.onnx"], tmp_path / "run/float")
        assert (copy.read_text(), copy.stat().st_ino) == ("payload", inode)
        copy.write_text("changed by hand")
        Store(root).materialize(entry, ["model.onnx"], tmp_path / "run/float")
        assert copy.read_text() == "payload"
        assert entry.path("model.onnx").stat().st_nlink == 1  # no link: a change of the copy stays out of the store

    def test_hashes_each_file_once(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed: list[Path] = []
        original = store_module.sha256_file
        monkeypatch.setattr(store_module, "sha256_file", lambda path: hashed.append(path) or original(path))
        store = Store(root)
        entry = store.make(KEY, "export", build())
        for _ in range(3):
            assert store.get(KEY) == entry
            store.materialize(entry, ["model.onnx"], tmp_path)
        assert len(hashed) == 1


class TestSize:
    def made(self, root: Path) -> list[Entry]:
        entries = []
        for age, key in enumerate("cdef"):
            entries.append(Store(root).make(key * 64, "export", build("x" * 1000)))
            os.utime(entries[-1].path("entry.json"), (1_000_000 + age,) * 2)
        return entries

    def test_counts_bytes(self, root: Path) -> None:
        entries = self.made(root)
        records = sum(entry.path("entry.json").stat().st_size for entry in entries)
        assert Store(root).size() == 4000 + records
        assert Store(root / "none").size() == 0

    def test_prune_removes_the_least_recently_used(self, root: Path) -> None:
        entries = self.made(root)
        assert Store(root).get(entries[0].key) is not None  # used now, so the youngest
        one = Store(root).size() // 4
        assert Store(root).prune(2 * one + 10) == (entries[1].key, entries[2].key)
        assert Store(root).get(entries[0].key) is not None
        assert Store(root).get(entries[1].key) is None
        assert Store(root).prune(10**9) == ()


class TestKeys:
    BASE = ("export", {"opset": 21}, {"model": "1"}, ("numpy",))

    @pytest.mark.parametrize(
        "changed",
        [
            ("quantize", {"opset": 21}, {"model": "1"}, ("numpy",)),
            ("export", {"opset": 20}, {"model": "1"}, ("numpy",)),
            ("export", {"opset": "21"}, {"model": "1"}, ("numpy",)),
            ("export", {"opset": 21}, {"model": "2"}, ("numpy",)),
            ("export", {"opset": 21}, {"data": "1"}, ("numpy",)),
            ("export", {"opset": 21}, {"model": "1"}, ("numpy", "onnx")),
        ],
    )
    def test_every_ingredient_counts(self, changed: tuple) -> None:
        assert key_of(*changed) != key_of(*self.BASE)

    def test_order_does_not(self) -> None:
        left = key_of("a", {"x": 1, "y": 2}, {"m": "1", "n": "2"}, ("numpy", "onnx"))
        assert left == key_of("a", {"y": 2, "x": 1}, {"n": "2", "m": "1"}, ("onnx", "numpy"))
        assert len(left) == 64

    def test_versions_and_code_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = key_of(*self.BASE)
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "version", lambda name: "0.0.1")
            assert key_of(*self.BASE) != before
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "code_version", lambda: "other")
            assert key_of(*self.BASE) != before

    def test_a_library_that_is_not_there(self) -> None:
        assert key_of("a", {}, {}, ("no-such-library",)) != key_of("a", {}, {}, ())

    def test_code_version_follows_the_source_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "module.py").write_text("a = 1")
        monkeypatch.setattr(store_module, "__file__", str(tmp_path / "store.py"))
        unmemoized = store_module.code_version.__wrapped__
        before = unmemoized()
        assert unmemoized() == before
        (tmp_path / "module.py").write_text("a = 2")
        assert unmemoized() != before


class TestRecord:
    def test_record_is_plain_json(self, root: Path) -> None:
        entry = Store(root).make(KEY, "export", build())
        record = json.loads(entry.path("entry.json").read_bytes())
        assert record["key"] == KEY
        assert record["files"]["model.onnx"]["size"] == 7
