"""What is missing, damaged, full or in the way: one message with a way out, and nothing lost that was made."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qonnx_pipe.cli import main
from tests.zoo.projects import Project

pytestmark = pytest.mark.export
ROOT = Path(__file__).parents[2]
Fails = Callable[..., str]


@pytest.fixture
def project_copy(project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    copy = project().copy_of_the_run(tmp_path)
    monkeypatch.setenv("QPIPE_CACHE", str(copy.cache))
    return copy


@pytest.fixture
def model(project_copy: Project) -> Path:
    """A float model with its tokenizer."""
    return project_copy.out / "float/model.onnx"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command line that must fail with `code` and say all of `says`; what it said."""

    def run(code: int, *words: object, says: tuple[str, ...], fix: bool = True) -> str:
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert said.err.count("error:") == 1
        assert ("  fix: " in said.err) == fix
        for text in says:
            assert text in said.err
        return said.err

    return run


def succeeds(*words: object) -> None:
    assert main([*map(str, words), "-q"]) == 0


def calibrate(model: Path, project: Project, *more: object) -> tuple[object, ...]:
    out = project.out.parent / "table.npz"
    return ("calibrate", model, "--data", project.folder / "data.csv", "--samples", 8, "--out", out, *more)


def run(project: Project, *overrides: object) -> tuple[object, ...]:
    sets = [word for override in overrides for word in ("--set", override)]
    return ("run", project.recipe, "--out", project.out, *sets)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a run directory, but for the manifest: it lists what belongs to the latest run."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del found["manifest.json"]
    return found


class TestFiles:
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 0.9999])
    def test_truncated(self, fails: Fails, project_copy: Project, model: Path, share: float) -> None:
        content = model.read_bytes()
        model.write_bytes(content[: int(share * len(content))])
        fails(3, *calibrate(model, project_copy), says=(f"{model}: not a readable ONNX model", "export or copy"))

    @pytest.mark.parametrize("matmul", ["integer", "qdq"])
    def test_quantized_already(self, fails: Fails, project_copy: Project, matmul: str) -> None:
        succeeds(*run(project_copy, f"quantize.matmul={matmul}"), "--until", "quantize")
        quantized, out = project_copy.out / "model.onnx", project_copy.out.parent / "again.onnx"
        shutil.copy(project_copy.out / "float/tokenizer.json", project_copy.out)
        words = ("--recipe", project_copy.recipe, "--calibration", project_copy.out / "calibration.npz", "--out", out)
        for command in (calibrate(quantized, project_copy), ("quantize", quantized, *words)):
            fails(
                3,
                *command,
                says=(f"{quantized}: the model is already quantized", "give the float model it was made of"),
            )
        assert not out.exists()

    def test_without_a_tokenizer(self, fails: Fails, project_copy: Project, model: Path) -> None:
        (model.parent / "tokenizer.json").unlink()
        fails(3, *calibrate(model, project_copy), says=("tokenizer.json: no such tokenizer", "export the model again"))

    @pytest.mark.parametrize("content", [b"", b"nonsense", None])
    def test_a_damaged_table(self, fails: Fails, project_copy: Project, model: Path, content: bytes | None) -> None:
        path = project_copy.out / "calibration.npz"
        path.write_bytes(path.read_bytes()[:-100] if content is None else content)
        out = project_copy.out.parent / "q.onnx"
        words = ("quantize", model, "--recipe", project_copy.recipe, "--calibration", path, "--out", out)
        fails(3, *words, says=(f"{path}: not a calibration table", "`qpipe calibrate`"))
        assert not out.exists()

    def test_a_table_where_a_folder_stands(self, fails: Fails, project_copy: Project, model: Path) -> None:
        words = ("calibrate", model, "--data", project_copy.folder / "data.csv", "--samples", 8)
        fails(2, *words, "--out", project_copy.out, says=(str(project_copy.out), "cannot be written"))


class TestDisk:
    @pytest.mark.parametrize(
        ("stage", "file"),
        [
            ("export", "export.json"),
            ("calibrate", "calibration.npz"),
            ("quantize", "encodings.json"),
            ("report", "report.html"),
        ],
    )
    def test_a_full_disk(
        self, fails: Fails, project_copy: Project, monkeypatch: pytest.MonkeyPatch, stage: str, file: str
    ) -> None:
        before = files(project_copy.out)

        def full(path: Path) -> None:
            if path.name == file:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        with monkeypatch.context() as patch:
            patch.setattr("qonnx_pipe.core.files.sync", full)
            fails(5, *run(project_copy), "--from", stage, "-q", says=("the disk is full", file, "free space"))
        assert files(project_copy.out) == before
        assert not list(project_copy.cache.rglob(".writing-*"))
        succeeds(*run(project_copy))
        assert files(project_copy.out) == before


BLOCKED = """
import sys
for name in ("torch", "transformers", "optimum", "onnxsim", "onnxscript"):
    sys.modules[name] = None
from qonnx_pipe.cli import main
sys.exit(main())
"""


class TestWithoutTheExportExtra:
    def qpipe(self, project: Project, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCKED, *map(str, words)]
        environment = {**os.environ, "QPIPE_CACHE": str(project.cache)}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)

    def test_a_cached_export_is_enough(self, project_copy: Project) -> None:
        done = self.qpipe(project_copy, *run(project_copy), "--from", "plan", "--until", "quantize", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["recomputed"] == ["plan", "calibrate", "quantize"]

    def test_an_export_is_a_missing_dependency(self, project_copy: Project) -> None:
        before = files(project_copy.out)
        done = self.qpipe(project_copy, *run(project_copy), "--from", "export")
        assert done.returncode == 2
        assert "exporting needs" in done.stderr
        assert "pip install 'qonnx-pipe[export]'" in done.stderr
        assert "Traceback" not in done.stderr
        assert files(project_copy.out) == before
