"""`qpipe run` on a tiny model: what it writes, what it takes from the cache, and what a kill costs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.tiny import RECIPE, TEXTS, write_csv

pytestmark = pytest.mark.export

FILES = (
    "manifest.json",
    "model.onnx",
    "float/model.onnx",
    "calibration.npz",
    "encodings.json",
    "plan.json",
    "verdict.json",
    "layers.json",
    "report.html",
)
STAGES = ("export", "plan", "calibrate", "quantize", "validate", "report")

WATCHED = """
import json, sys
from qonnx_pipe.cli import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "onnxsim"} & sys.modules.keys())
print(json.dumps(heavy), file=sys.stderr)
sys.exit(code)
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from qonnx_pipe import pipeline
from qonnx_pipe.recipe import load

def hear(progress):
    if progress.stage == sys.argv[3] and progress.kind in ("start", "step") and progress.text != "":
        os.kill(os.getpid(), signal.SIGKILL)

pipeline.run(load(Path(sys.argv[1])), Path(sys.argv[2]), hear)
"""


@pytest.fixture(scope="module")
def home(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint, texts and recipe, and a finished run in `run` with its cache in `cache`."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(checkpoint("bert", "text-classification"), folder / "checkpoint")
    write_csv(folder / "texts.csv", TEXTS)
    (folder / "recipe.yaml").write_text(RECIPE)
    done = qpipe(folder, "run", "recipe.yaml", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "first.json").write_text(done.stdout)
    return folder


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change at will."""
    shutil.copytree(home, tmp_path / "place")
    return tmp_path / "place"


def qpipe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, in `folder`; the last line of stderr lists heavy imports."""
    return subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        cwd=folder,
        env={**os.environ, "QPIPE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def recomputed(folder: Path, *arguments: str) -> list[str]:
    done = qpipe(folder, "run", "recipe.yaml", "--out", "run", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    stages: list[str] = json.loads(done.stdout)["recomputed"]
    return stages


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_run_directory_and_its_manifest(home: Path) -> None:
    first = json.loads((home / "first.json").read_text())
    assert first["recomputed"] == list(STAGES)
    assert first["verdict"]["passed"] is True
    for name in FILES:
        assert (home / "run" / name).is_file(), name
    manifest = json.loads((home / "run/manifest.json").read_text())
    listed = {artifact["path"]: artifact for artifact in manifest["artifacts"]}
    assert {*FILES} - {"manifest.json"} <= listed.keys()
    for path, artifact in listed.items():
        assert digest(home / "run" / path) == artifact["sha256"], path
    assert {"torch", "onnxruntime", "qonnx-pipe"} <= manifest["versions"].keys()


def test_every_weight_matmul_runs_in_integers(home: Path) -> None:
    verdict = json.loads((home / "run/verdict.json").read_text())
    kernels = {result["model"]: result["kernels"] for result in verdict["results"]}
    assert kernels["float"]["matmul_int8"] == 0
    assert kernels["quantized"]["matmul_int8"] == kernels["quantized"]["matmul_total"] > 0
    assert kernels["quantized"]["float"] == []
    parts = verdict["size"]["parts"]
    assert sum(parts.values()) == verdict["size"]["quantized_bytes"] == (home / "run/model.onnx").stat().st_size


def test_a_second_run_recomputes_and_imports_nothing(place: Path) -> None:
    before = {name: digest(place / "run" / name) for name in FILES}
    done = qpipe(place, "run", "recipe.yaml", "--out", "run", "--json")
    assert json.loads(done.stdout)["recomputed"] == []
    assert json.loads(done.stderr.splitlines()[-1]) == []
    assert {name: digest(place / "run" / name) for name in FILES} == before


def test_other_evaluation_texts_recompute_the_verdict_and_the_report(place: Path) -> None:
    """What every other change recomputes stands in tests/unit/test_pipeline.py."""
    write_csv(place / "other.csv", TEXTS[:9])
    assert recomputed(place, "--set", "data.evaluation.source=other.csv") == ["validate", "report"]


def test_damage_is_found_and_mended(place: Path) -> None:
    (place / "run/model.onnx").write_bytes(b"gone")
    assert recomputed(place) == []  # the cache has it
    wanted = digest(place / "run/model.onnx")
    entry = next(path for path in (place / "cache/entries").rglob("encodings.json")).parent
    content = bytearray((entry / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (entry / "model.onnx").write_bytes(content)
    done = qpipe(place, "run", "recipe.yaml", "--out", "run", "--json")
    assert json.loads(done.stdout)["recomputed"] == ["quantize"]
    assert "damaged" in done.stderr
    assert digest(place / "run/model.onnx") == wanted


@pytest.mark.parametrize("stage", STAGES)
def test_kill_minus_nine_then_resume(stage: str, home: Path, place: Path) -> None:
    """Killed at the first sign of `stage`, with everything from there on unmade: the next run ends the same."""
    for entry in [path for path in (place / "cache/entries").glob("??/*")]:
        if STAGES.index(json.loads((entry / "entry.json").read_text())["stage"]) >= STAGES.index(stage):
            shutil.rmtree(entry)
    shutil.rmtree(place / "run")
    environment = {**os.environ, "QPIPE_CACHE": str(place / "cache")}
    arguments = [sys.executable, "-c", KILLED, "recipe.yaml", "run", stage]
    killed = subprocess.run(arguments, cwd=place, env=environment, capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert recomputed(place) == list(STAGES[STAGES.index(stage) :])
    for name in ("model.onnx", "float/model.onnx", "plan.json", "calibration.npz", "encodings.json"):
        assert digest(place / "run" / name) == digest(home / "run" / name), name


def test_a_missed_gate_writes_the_verdict_and_exits_with_one(place: Path) -> None:
    done = qpipe(place, "run", "recipe.yaml", "--out", "run", "--set", "validate.gates={size_ratio: 100}")
    assert done.returncode == 1
    assert "size_ratio" in done.stderr
    verdict = json.loads((place / "run/verdict.json").read_text())
    assert verdict["passed"] is False
    assert (place / "run/report.html").is_file()
