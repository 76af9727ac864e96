"""Loading and tracing: what is refused, what is never run, and what stands beside the ONNX files."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qonnx_pipe.errors import MissingDependency, ModelError, NumericsError, UsageError
from qonnx_pipe.source.checkpoint import resolve
from qonnx_pipe.source.export import export
from qonnx_pipe.source.loading import load_model
from qonnx_pipe.source.probe import probe_batches
from qonnx_pipe.source.reference import reference_outputs

pytestmark = pytest.mark.export
TASK = "feature-extraction"


@pytest.fixture
def bert(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may spoil."""
    return shutil.copytree(checkpoint("bert"), tmp_path / "bert")


def rewrite_weights(directory: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_weight_with_nan_is_named(bert: Path) -> None:
    name = "encoder.layer.1.output.dense.weight"
    rewrite_weights(bert, lambda tensors: tensors[name].__setitem__((0, 0), np.nan))
    with pytest.raises(NumericsError, match=name):
        load_model(resolve(str(bert)), TASK)


def test_a_missing_head_is_never_made_up(bert: Path) -> None:
    with pytest.raises(ModelError, match="classifier"):
        load_model(resolve(str(bert)), "text-classification")


def test_a_missing_pooler_does_not_matter_for_hidden_states(bert: Path) -> None:
    rewrite_weights(bert, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    assert not load_model(resolve(str(bert)), TASK).training


def test_weights_of_another_shape(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    (bert / "config.json").write_text(json.dumps({**config, "hidden_size": 64}), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(resolve(str(bert)), TASK)


def test_remote_code_is_never_run(bert: Path, tmp_path: Path) -> None:
    config = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    (bert / "config.json").write_text(json.dumps(config), encoding="utf-8")
    sprung = tmp_path / "sprung"
    (bert / "evil.py").write_text(f"import pathlib; pathlib.Path({str(sprung)!r}).touch()", encoding="utf-8")
    load_model(resolve(str(bert)), TASK)
    assert not sprung.exists()


def test_an_unknown_task() -> None:
    with pytest.raises(UsageError, match="unknown task"):
        load_model(None, "mind-reading")


def test_a_task_that_the_architecture_cannot_do(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises((UsageError, ModelError)) as caught:
        export(resolve(str(checkpoint("bert"))), "image-classification", tmp_path)
    assert caught.value.exit_code in (2, 3)


def test_no_past_where_there_is_none(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no past"):
        export(resolve(str(checkpoint("bert"))), TASK, tmp_path, with_past=True)


def test_without_the_torch_side(checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(MissingDependency) as caught:
        export(resolve(str(checkpoint("bert"))), TASK, tmp_path)
    assert caught.value.fix == "pip install 'qonnx-pipe[export]'"


def test_no_tokenizer(bert: Path, tmp_path: Path) -> None:
    for path in bert.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        export(resolve(str(bert)), TASK, tmp_path / "out")


def test_a_vocabulary_becomes_a_fast_tokenizer(bert: Path, tmp_path: Path) -> None:
    vocabulary = json.loads((bert / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    for path in bert.glob("*token*"):
        path.unlink()
    (bert / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    exported = export(resolve(str(bert)), TASK, tmp_path / "out")
    assert (exported.directory / "tokenizer.json").is_file()
    assert [path.name for path in exported.models] == ["model.onnx"]
    assert exported.opset == 20
    assert exported.config["hidden_size"] == 32


def test_a_pickle_that_the_user_allowed(bert: Path) -> None:
    import torch

    model = load_model(resolve(str(bert)), TASK)
    (bert / "model.safetensors").unlink()
    torch.save(model.state_dict(), bert / "pytorch_model.bin")
    again = load_model(resolve(str(bert), allow_pickle=True), TASK)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(again.state_dict()[name], model.state_dict()[name])


def test_a_tokenizer_of_another_model(bert: Path) -> None:
    found = resolve(str(bert))
    batch = {"input_ids": np.array([[5000]]), "attention_mask": np.ones((1, 1), np.int64)}
    with pytest.raises(ModelError, match="cannot run"):
        reference_outputs(found, TASK, [batch])


def test_a_directory_that_went_away(bert: Path) -> None:
    with pytest.raises(ModelError):
        load_model(replace(resolve(str(bert)), directory=bert / "gone"), TASK)


def test_probes_are_padded_on_the_right_and_of_many_lengths(checkpoint: Callable[..., Path]) -> None:
    directory = checkpoint("roberta")
    shapes = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}
    alone, padded = probe_batches(directory, {"pad_token_id": 1}, shapes)
    assert alone["input_ids"].shape[0] == 1
    lengths = padded["attention_mask"].sum(axis=1)
    assert len(set(lengths.tolist())) == 4
    assert np.all(padded["input_ids"][padded["attention_mask"] == 0] == 1)
    assert np.all(np.diff(padded["attention_mask"], axis=1) <= 0)
