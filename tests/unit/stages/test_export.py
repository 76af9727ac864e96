"""The export stage: everything appears at once, with a report, or nothing does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from qonnx_pipe.errors import ModelError, UsageError
from qonnx_pipe.stages.export import export_stage

pytestmark = pytest.mark.export


def test_the_directory_and_its_report(export_result: Callable[..., Any]) -> None:
    result = export_result("bert", "text-classification")
    names = {path.name for path in result.directory.iterdir()}
    assert {"model.onnx", "tokenizer.json", "config.json", "export.json"} <= names
    assert not any(name.startswith(".") for name in names), "no scratch is left"
    report = json.loads((result.directory / "export.json").read_text(encoding="utf-8"))
    assert report["max_error"] == result.max_error < 1e-5
    assert report["checkpoint_sha256"] == result.checkpoint.sha256
    assert report["files"][0]["nodes_after"] < report["files"][0]["nodes_before"]
    assert report["files"][0]["opset"] == 21
    assert {"torch", "optimum-onnx", "onnx"} <= report["versions"].keys()


def test_the_file_says_what_it_is(export_result: Callable[..., Any]) -> None:
    result = export_result("bert", "text-classification")
    found = {entry.key: entry.value for entry in onnx.load(result.model).metadata_props}
    assert found["qonnx_pipe.task"] == "text-classification"
    assert found["qonnx_pipe.model_type"] == "bert"
    assert found["qonnx_pipe.pad_token_id"] == "0"
    assert json.loads(found["qonnx_pipe.id2label"]) == {"0": "negative", "1": "positive"}


def test_the_preprocessor_of_images_comes_along(export_result: Callable[..., Any]) -> None:
    assert (export_result("vit").directory / "preprocessor_config.json").is_file()


def test_over_the_limit_nothing_is_written(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="differs from torch"):
        export_stage(str(checkpoint("electra")), "feature-extraction", tmp_path / "out", max_error=0.0)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_graph_is_found(checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch) -> None:
    from qonnx_pipe.source import reference

    correct = reference._run

    def disturbed(*arguments: Any) -> dict[str, Any]:
        return {name: value * 1.01 for name, value in correct(*arguments).items()}

    monkeypatch.setattr(reference, "_run", disturbed)
    with pytest.raises(ModelError, match="differs from torch"):
        export_stage(str(checkpoint("electra")), "feature-extraction", tmp_path / "out")


def test_an_output_that_cannot_be_written(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UsageError):
        export_stage(str(checkpoint("electra")), "feature-extraction", tmp_path / "file")


def test_encoder_and_decoder_with_past(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    result = export_stage(str(checkpoint("bart")), "text2text-generation", tmp_path / "out", with_past=True)
    assert result.model.name == "encoder_model.onnx"
    compared = {file.name: file.max_error is not None for file in result.files}
    assert compared == {"decoder_model.onnx": True, "decoder_with_past_model.onnx": False, "encoder_model.onnx": True}
    assert len(result.skipped) == 1
    assert "decoder_with_past_model.onnx" in result.skipped[0]


def test_a_decoder_with_past_is_compared_from_an_empty_past(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    result = export_stage(str(checkpoint("gpt2")), "text-generation", tmp_path / "out", with_past=True)
    assert result.max_error < 1e-4
    assert any(name.startswith("past_key_values") for name in result.files[0].simplified.inputs)
