"""Fine-tuning: a checkpoint learns the data's labels; the same seed gives the same bytes.

AdamW (Loshchilov and Hutter 2019) under a learning rate that rises and then falls linearly; the epoch with the best
score on held-out examples is kept. The head is the architecture's own for the task.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qonnx_pipe.core.examples import Array, Batch, Form
from qonnx_pipe.core.files import writing
from qonnx_pipe.errors import ModelError, NumericsError
from qonnx_pipe.recipe.training import Training
from qonnx_pipe.source import heads
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.source.loading import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

STATE, BEST = "state.pt", "best.pt"
"""What an interrupted training leaves in its work folder: everything after the last whole epoch, the best weights."""

Batches = Callable[[int], Sequence[Batch]]
"""The batches of one epoch (0, 1, …), in the order in which they are learned."""


@dataclass(frozen=True)
class Epoch:
    """How an epoch ended: mean training loss, the task's metric on the held-out examples."""

    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Learner:
    """A torch model with a head for labels of `form`, of `classes` if it has them, in float32, on `device`."""

    model: PreTrainedModel
    form: Form
    classes: tuple[str, ...]
    device: str
    where: str

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


def finetune(
    learner: Learner,
    batches: Batches,
    score: Callable[[], float],
    settings: Training,
    *,
    workdir: Path,
    progress: Callable[[int], None],
) -> tuple[Epoch, ...]:
    """Train `learner` in place, leave it with the weights of its best epoch by `score`, and return all epochs.

    After each epoch everything is saved in `workdir`, from where the same call goes on after an interruption, to the
    same bytes. `progress` hears the number of steps done. Raises NumericsError when the loss is no number.
    """
    import torch

    steps = len(batches(0)) * settings.epochs
    with quiet(), _deterministic():
        groups = _parameters(learner.model, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)  # one pass: embeddings are large
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, settings.warmup))
        parts: dict[str, Any] = {"model": learner.model, "optimizer": optimizer, "schedule": schedule}
        epochs = _resume(workdir / STATE, parts, learner.device)
        progress(len(epochs) * len(batches(0)))
        for number in range(len(epochs), settings.epochs):
            loss = _learn(
                learner, batches(number), optimizer, schedule, settings=settings, number=number, progress=progress
            )
            epochs.append(Epoch(loss, score()))
            if epochs[-1].accuracy > max((epoch.accuracy for epoch in epochs[:-1]), default=-math.inf):
                _save(workdir / BEST, learner.model.state_dict())
            states = {name: part.state_dict() for name, part in parts.items()}
            _save(workdir / STATE, {**states, "epochs": [(epoch.loss, epoch.accuracy) for epoch in epochs]})
        learner.model.load_state_dict(torch.load(workdir / BEST, map_location=learner.device, weights_only=True))
    learner.model.train(False)
    return tuple(epochs)


def save(learner: Learner, folder: Path) -> None:
    """Write weights (safetensors) and configuration, with the names of the classes if there are any, into `folder`."""
    with quiet():
        learner.model.cpu().save_pretrained(folder, safe_serialization=True)


def bucketed(lengths: Sequence[int], batch_size: int, *, seed: int, chunk: int = 32) -> list[int]:
    """A shuffled order whose batches hold texts of like lengths: sorted within chunks of `chunk` batches.

    Little padding, and still another neighbourhood each epoch.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    size = batch_size * chunk
    chunks = [sorted(order[start : start + size], key=lengths.__getitem__) for start in range(0, len(order), size)]
    groups = [part[start : start + batch_size] for part in chunks for start in range(0, len(part), batch_size)]
    short = [group for group in groups if len(group) < batch_size]  # only the last of a chunk: it must stay the last
    whole = [group for group in groups if len(group) == batch_size]
    rng.shuffle(whole)
    return [index for group in (*whole, *short) for index in group]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only algorithms whose result does not depend on the order of threads."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _parameters(model: PreTrainedModel, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and other vectors do not."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in wanted if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in wanted if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: up to 1 in `warmup` of the steps, then down to 0."""
    rising = round(steps * warmup)
    return (step + 1) / (rising + 1) if step < rising else (steps - step) / max(steps - rising, 1)


def _learn(
    learner: Learner,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    *,
    settings: Training,
    number: int,
    progress: Callable[[int], None],
) -> float:
    """One epoch; its mean loss. Dropout is drawn anew for each epoch, so that a resumed one draws the same."""
    import torch

    digest = hashlib.sha256(f"{settings.seed}:{number}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    learner.model.train()
    losses = []
    for index, batch in enumerate(batches):
        loss = learner.loss(batch)
        if not bool(torch.isfinite(loss)):
            what = f"the loss is {loss.item()} at step {index + 1} of epoch {number + 1}"
            raise NumericsError(what, where=learner.where, fix="lower train.learning_rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.model.parameters(), settings.max_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress(1)
    return float(np.mean(losses))


def _save(path: Path, state: object) -> None:
    """Whole or not at all: a kill leaves the state of the epoch before."""
    import torch

    partial = path.with_suffix(".partial")
    with writing(path):
        torch.save(state, partial)
        partial.replace(path)


def _resume(path: Path, parts: dict[str, Any], device: str) -> list[Epoch]:
    """Bring `parts` to where an earlier call stopped; the epochs that are done."""
    import torch

    if not path.is_file():
        return []
    state = torch.load(path, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return [Epoch(loss, accuracy) for loss, accuracy in state["epochs"]]
