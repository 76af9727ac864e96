"""A checkpoint as raw ONNX files, through optimum's exporter."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qonnx_pipe.errors import ModelError, UsageError
from qonnx_pipe.source.checkpoint import Checkpoint, read_config
from qonnx_pipe.source.loading import load_model, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREPROCESSOR = "preprocessor_config.json"
EXPORTED_AS = {"text-regression": "text-classification"}
"""Tasks that optimum knows by another name."""

NEWEST_TRACED_OPSET = 20
"""The TorchScript exporter writes no newer operators; `graph.simplify` raises the file's opset afterwards."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote into `directory`: ONNX files, `config.json`, the tokenizer or the preprocessor's settings.

    `models`: one `model.onnx`, or encoder and decoder files. `opset`: the opset that they are written in.
    """

    directory: Path
    models: tuple[Path, ...]
    config: Mapping[str, object]
    opset: int


def export(
    checkpoint: Checkpoint,
    task: str,
    out_dir: Path,
    *,
    opset: int = 21,
    trust_remote_code: bool = False,
    with_past: bool = False,
) -> Exported:
    """Trace the model in float32 with symbolic batch and sequence sizes; weights MatMuls come as [in, out].

    Raises MissingDependency without the [export] extra, UsageError for a task that the architecture cannot do,
    ModelError for a checkpoint that cannot be loaded or traced, NumericsError for weights with NaN.
    """
    model = load_model(checkpoint, task, trust_remote_code=trust_remote_code)
    task = EXPORTED_AS.get(task, task)
    traced = min(opset, NEWEST_TRACED_OPSET)
    with quiet():
        from optimum.exporters.onnx import onnx_export_from_model

        _check_task(checkpoint, task, with_past)
        model.config.use_cache = with_past
        _write_tokenizer(checkpoint, model, out_dir, trust_remote_code)
        try:
            onnx_export_from_model(
                model,
                out_dir,
                opset=traced,
                task=f"{task}-with-past" if with_past else task,
                do_validation=False,
                no_post_process=True,
            )
        except (ValueError, RuntimeError, NotImplementedError, TypeError, KeyError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = f"optimum cannot export this {checkpoint.model_type} for {task} ({first})"
            raise ModelError(what, where=str(checkpoint.directory), fix="try another task or opset") from error
    if (settings := checkpoint.directory / PREPROCESSOR).is_file():
        shutil.copyfile(settings, out_dir / PREPROCESSOR)
    return Exported(out_dir, tuple(sorted(out_dir.glob("*.onnx"))), read_config(out_dir), traced)


def _check_task(checkpoint: Checkpoint, task: str, with_past: bool) -> None:
    from optimum.exporters.tasks import TasksManager

    kind = checkpoint.model_type
    tasks = TasksManager.get_supported_tasks_for_model_type(kind, exporter="onnx", library_name="transformers")
    if task not in tasks:
        known = ", ".join(sorted(name for name in tasks if not name.endswith("-with-past")))
        raise UsageError(f"{kind} cannot be exported for {task}", where=checkpoint.source, fix=f"it can for {known}")
    if with_past and f"{task}-with-past" not in tasks:
        raise UsageError(f"{kind} has no past for {task}", where=checkpoint.source, fix="leave with_past out")


def _write_tokenizer(checkpoint: Checkpoint, model: PreTrainedModel, out_dir: Path, trust_remote_code: bool) -> None:
    """Write `tokenizer.json` of a text model, made from its vocabulary where only that is there."""
    if model.main_input_name != "input_ids":
        return
    from transformers import AutoTokenizer

    where = str(checkpoint.directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
            checkpoint.directory, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        raise ModelError("no tokenizer that can be read", where=where, fix="save the tokenizer there too") from error
    tokenizer.save_pretrained(out_dir)
    if not (out_dir / "tokenizer.json").is_file():
        fix = f"save a fast tokenizer there ({type(tokenizer).__name__} has none)"
        raise ModelError("the tokenizer cannot be written as tokenizer.json", where=where, fix=fix)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
