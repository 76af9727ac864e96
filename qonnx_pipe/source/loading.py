"""A checkpoint as a torch model: float32, in eval mode, complete and finite, read without a sound."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qonnx_pipe.errors import MissingDependency, ModelError, NumericsError, UsageError
from qonnx_pipe.source.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}
"""Task → the class of transformers that loads it."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logs and progress bars of torch and transformers; MissingDependency without them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            _require()
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # type: ignore[no-untyped-call]
            yield
    finally:
        logging.disable(level)


def load_model(checkpoint: Checkpoint, task: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The torch model of a checkpoint for a task.

    Raises UsageError for an unknown task, ModelError when the weights do not fit the configuration or lack the
    task's head, NumericsError when one holds NaN or infinity.
    """
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}", fix=f"use one of {', '.join(TASKS)}")
    where = str(checkpoint.directory)
    with quiet():
        import torch
        import transformers
        from safetensors import SafetensorError

        try:
            model, info = getattr(transformers, TASKS[task]).from_pretrained(
                checkpoint.directory,
                trust_remote_code=trust_remote_code,
                use_safetensors=not checkpoint.pickled,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fix = "check that config.json, weights and task belong together"
            raise ModelError(f"cannot be loaded for {task} ({first})", where=where, fix=fix) from error
        _check_complete(info["missing_keys"], task, where)
        _check_finite(model, where)
        loaded: PreTrainedModel = model.eval()
        return loaded


def _require() -> None:
    try:
        import optimum.exporters.onnx  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        what = f"exporting needs {error.name or error}"
        raise MissingDependency(what, fix="pip install 'qonnx-pipe[export]'") from error


def _check_complete(missing: list[str], task: str, where: str) -> None:
    """A random pooler is harmless where only the hidden states are used; any other random weight is not."""
    lost = sorted(name for name in missing if not (task == "feature-extraction" and "pooler." in name))
    if lost:
        what = f"the checkpoint has no weights for {', '.join(lost[:3])}{' …' if lost[3:] else ''}"
        fix = f"use a checkpoint that was trained for {task}, or the task that this one was trained for"
        raise ModelError(what, where=where, fix=fix)


def _check_finite(model: PreTrainedModel, where: str) -> None:
    import torch

    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            what = f"weight {name!r} holds NaN or infinity"
            fix = "the file is damaged or the training diverged: take another checkpoint"
            raise NumericsError(what, where=where, fix=fix)
