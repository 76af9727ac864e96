"""Fine-tuning: a checkpoint under a head that learns the data's labels, the architecture's own for the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qonnx_pipe.core.examples import Array, Batch, Form
from qonnx_pipe.errors import ModelError
from qonnx_pipe.recipe.training import Training
from qonnx_pipe.source import heads
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.source.loading import quiet
from qonnx_pipe.source.training import decayed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Learner:
    """A torch model with a head for labels of `form`, of `classes` if it has them, in float32, on `device`."""

    model: PreTrainedModel
    form: Form
    classes: tuple[str, ...]
    device: str
    where: str
    key: str = "train"

    @property
    def module(self) -> PreTrainedModel:
        """The model."""
        return self.model

    def groups(self, settings: Training) -> list[dict[str, Any]]:
        """All parameters that can be trained."""
        return decayed([one for one in self.model.parameters() if one.requires_grad], settings.weight_decay)

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The batch as tensors on the model's device."""
        import torch

        return {name: torch.from_numpy(array).to(self.device) for name, array in batch.inputs.items()}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean loss over a labelled batch, a scalar."""
        import torch

        wanted = torch.from_numpy(heads.targets(batch, self.form, self.classes)).to(self.device)
        return heads.loss(self.model(**self.inputs(batch)), wanted, self.form)

    def outputs(self, batches: Sequence[Batch]) -> Iterator[dict[str, Array]]:
        """What the model gives out for each batch, by name; dropout is off."""
        import torch

        self.model.train(False)
        with torch.inference_mode():
            for batch in batches:
                found = self.model(**self.inputs(batch))
                yield {name: value.cpu().numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}


def learner(checkpoint: Checkpoint, form: Form, classes: Sequence[str], *, seed: int) -> Learner:
    """The checkpoint's body under a head for labels of `form`; weights that it lacks are drawn under `seed`.

    Raises ModelError when the checkpoint cannot be loaded so, MissingDependency without the [export] extra.
    """
    where = str(checkpoint.directory)
    with quiet():
        import torch
        import transformers
        from safetensors import SafetensorError

        torch.manual_seed(seed)
        try:
            model = getattr(transformers, heads.AUTO_CLASSES[form]).from_pretrained(
                checkpoint.directory,
                use_safetensors=not checkpoint.pickled,
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                **heads.settings(form, classes),
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fix = "check that config.json and weights belong together, and that it is a text model"
            raise ModelError(f"cannot be loaded to be trained ({first})", where=where, fix=fix) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Learner(model.to(device), form, tuple(classes), device, where)


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> tuple[str, ...]:
    """Write the tokenizer into `folder`, with `tokenizer.json`, and return the names of the inputs it makes.

    Raises ModelError when the checkpoint has none that can be written so.
    """
    where = str(checkpoint.directory)
    with quiet():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                checkpoint.directory, local_files_only=True
            )
        except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            fix = "save the tokenizer there too"
            raise ModelError("no tokenizer that can be read", where=where, fix=fix) from error
        tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        fix = f"save a fast tokenizer there ({type(tokenizer).__name__} has none)"
        raise ModelError("the tokenizer cannot be written as tokenizer.json", where=where, fix=fix)
    return tuple(tokenizer.model_input_names)


def save(learner: Learner, folder: Path) -> None:
    """Write weights (safetensors) and configuration, with the names of the classes if there are any, into `folder`."""
    with quiet():
        learner.model.cpu().save_pretrained(folder, safe_serialization=True)
