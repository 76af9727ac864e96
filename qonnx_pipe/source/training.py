"""Training: epochs of AdamW over batches; resumable, the same bytes each time, and the best epoch is kept.

AdamW (Loshchilov and Hutter 2019) under a learning rate that rises and then falls linearly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.core.files import writing
from qonnx_pipe.errors import NumericsError
from qonnx_pipe.recipe.training import Criterion, Precision, Training
from qonnx_pipe.source.loading import quiet

if TYPE_CHECKING:
    import torch

STATE, BEST = "state.pt", "best.pt"
"""What an interrupted training leaves in its work folder: everything after the last whole epoch, the best weights."""

Batches = Callable[[int], Sequence[Batch]]
"""The batches of one epoch (0, 1, …), in the order in which they are learned."""


@dataclass(frozen=True)
class Epoch:
    """How an epoch ended: mean training loss, the task's metric and the mean loss on the held-out examples.

    None: not judged; a loss of NaN: nothing was learned yet.
    """

    loss: float
    accuracy: float | None
    held_out_loss: float | None = None


def best(epochs: Sequence[Epoch], by: Criterion) -> int:
    """Index of the best epoch by one of its figures, where these are equal by the other, then the earliest."""

    def rank(epoch: Epoch) -> tuple[float, float]:
        score, nearness = epoch.accuracy or 0.0, float(np.nan_to_num(-(epoch.held_out_loss or 0.0), nan=-np.inf))
        return (score, nearness) if by == "accuracy" else (nearness, score)

    return max(range(len(epochs)), key=lambda index: rank(epochs[index]))


class Trainable(Protocol):
    """What can be trained: a module and its loss."""

    @property
    def module(self) -> torch.nn.Module:
        """What holds the weights that are learned."""

    @property
    def device(self) -> str:
        """Where the module is."""

    @property
    def where(self) -> str:
        """What the module was made of, for complaints."""

    @property
    def key(self) -> str:
        """The part of the recipe that it is trained by."""

    def groups(self, settings: Training) -> list[dict[str, Any]]:
        """AdamW's groups of parameters."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch that is learned from, shape ()."""


Judge = Callable[[], tuple[float | None, float | None]]
"""The task's metric and the mean loss on held-out examples, None for what cannot be told."""


def fit(
    learner: Trainable,
    batches: Batches,
    judge: Judge,
    settings: Training,
    *,
    workdir: Path,
    progress: Callable[[int], None],
    start: Epoch | None = None,
) -> tuple[Epoch, ...]:
    """Train `learner` in place, leave it with the weights of its `best` epoch, and return all epochs.

    `start`: how it is judged as it comes; where no epoch is better, its weights stay. After each epoch everything is
    saved in `workdir`, from where the same call goes on after an interruption, to the same bytes. `progress` hears the
    number of steps done. Raises NumericsError when the loss is no number.
    """
    import torch

    module, before = learner.module, [] if start is None else [start]
    steps = len(batches(0)) * settings.epochs
    with quiet(), _deterministic():
        groups = learner.groups(settings)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)  # one pass: embeddings are large
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, settings.warmup))
        parts: dict[str, Any] = {"model": module, "optimizer": optimizer, "schedule": schedule}
        epochs = _resume(workdir / STATE, parts, learner.device)
        progress(len(epochs) * len(batches(0)))
        if before and not epochs:
            _save(workdir / BEST, module.state_dict())
        for number in range(len(epochs), settings.epochs):
            with _precision(settings.precision):
                loss = _learn(
                    learner, batches(number), optimizer, schedule, settings=settings, number=number, progress=progress
                )
            module.train(False)
            epochs.append(Epoch(loss, *judge()))
            if best((*before, *epochs), settings.chosen_by) == len(before) + number:
                _save(workdir / BEST, module.state_dict())
            states = {name: part.state_dict() for name, part in parts.items()}
            facts = [(epoch.loss, epoch.accuracy, epoch.held_out_loss) for epoch in epochs]
            _save(workdir / STATE, {**states, "epochs": facts})
        module.load_state_dict(torch.load(workdir / BEST, map_location=learner.device, weights_only=True))
    module.train(False)
    return tuple(epochs)


def decayed(parameters: Sequence[torch.nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay; biases, gains and other vectors do not."""
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


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


@contextmanager
def _precision(precision: Precision) -> Iterator[None]:
    """Matrix products of float32 tensors from factors that are rounded to `precision`, where the device can."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bfloat16" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: up to 1 in `warmup` of the steps, then down to 0."""
    rising = round(steps * warmup)
    return (step + 1) / (rising + 1) if step < rising else (steps - step) / max(steps - rising, 1)


def _learn(
    learner: Trainable,
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
    learner.module.train()
    losses = []
    for index, batch in enumerate(batches):
        loss = learner.loss(batch)
        if not bool(torch.isfinite(loss)):
            rate = optimizer.param_groups[0]["lr"]
            what = (
                f"the loss is {loss.item()} at step {index + 1} of epoch {number + 1}, at a learning rate of {rate:.2g}"
            )
            raise NumericsError(what, where=learner.where, fix=f"lower {learner.key}.learning_rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.module.parameters(), settings.max_norm)
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
    return [Epoch(*facts) for facts in state["epochs"]]
