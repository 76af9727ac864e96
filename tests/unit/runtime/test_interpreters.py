"""A worker under another interpreter, which has numpy and onnxruntime alone; and interpreters that are none."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qonnx_pipe
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime.client import Limits, Worker, installed
from qonnx_pipe.runtime.worker import SMALLEST
from tests.zoo import graphs, interpreters

X = np.random.default_rng(0).normal(size=(2, 4, graphs.WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interpreters.bare(tmp_path_factory.mktemp("bare") / "env")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.qdq_matmul(tmp_path / "m.onnx")


def test_numpy_and_onnxruntime_are_enough(bare: Path, model: Path) -> None:
    missing = subprocess.run([bare, "-c", "import onnx"], capture_output=True, check=False)
    assert missing.returncode == 1, "the environment is bare"
    with Worker(model, threads=1, python=bare) as worker:
        (elsewhere,) = worker.predict([{"x": X}])
        seen = worker.census({"x": X})
        assert len(worker.time({"x": X}, seconds=0, least=2).seconds) == 2
        assert worker.check().python == str(bare)
    with Worker(model, threads=1) as worker:
        (here,) = worker.predict([{"x": X}])
    np.testing.assert_array_equal(elsewhere["y0"], here["y0"])
    assert seen.events


def test_a_worker_imports_numpy_onnxruntime_and_this_package_alone() -> None:
    code = "import sys, qonnx_pipe.runtime.worker; print(*(m for m in sys.modules if m.startswith('qonnx_pipe')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    root = Path(qonnx_pipe.__file__).parent
    loaded = [root.joinpath(*name.split(".")[1:]) for name in done.stdout.split()]
    loaded += (root / "runtime" / "providers").glob("*.py")
    roots = set()
    for path in loaded:
        file = path.with_suffix(".py")
        for node in ast.walk(ast.parse((file if file.exists() else path / "__init__.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").partition(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "qonnx_pipe"}


def test_nothing_of_the_working_directory_is_imported(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Worker(model, threads=1) as worker:
        assert len(list(worker.predict([{"x": X}]))) == 1


def test_a_provider_that_the_interpreter_lacks(bare: Path) -> None:
    assert installed("cpu", bare).version == ort.__version__
    with pytest.raises(ProviderError, match=f"'xnnpack' is not available here: {bare} has no such package"):
        installed("xnnpack", bare)


def test_interpreters_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"none cannot be started: No such file") as caught:
        installed("cpu", tmp_path / "none")
    assert "bin/python" in caught.value.fix
    with pytest.raises(ProviderError, match="cannot be started: Permission denied"):
        installed("cpu", tmp_path)
    with pytest.raises(ProviderError, match="cannot be started: Exec format error"):
        installed("cpu", _no_program(tmp_path))
    with pytest.raises(ProviderError, match="exit status 3; last words: no Python at all"):
        installed("cpu", interpreters.script(tmp_path / "other", "echo no Python at all >&2", "exit 3"))


def _no_program(folder: Path) -> Path:
    path = folder / "text"
    path.write_bytes(b"\x00no program")
    path.chmod(0o755)
    return path


def test_memory_that_is_refused_is_told_with_its_limit(model: Path) -> None:
    with (
        Worker(model, threads=1, limits=Limits(memory_mb=1)) as worker,
        pytest.raises(ProviderError, match=r"out of memory: .*\(memory limit 1 MB\)"),
    ):
        list(worker.predict([{"x": X}]))


def test_the_smallest_model_is_a_valid_one() -> None:
    made = onnx.load_from_string(SMALLEST)
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node] == ["Add"]
