"""Texts to learn from: their batches in an order of their own each epoch, of like lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qonnx_pipe.core.examples import Batch, Examples
from qonnx_pipe.data.batches import batches


@dataclass(frozen=True)
class Texts:
    """Texts and how they are fed to the model: texts a batch, tokens at which one is cut."""

    examples: Examples
    batch_size: int
    max_length: int

    @property
    def steps(self) -> int:
        """How many batches an epoch has; texts cut into windows make a few more."""
        return -(-len(self.examples) // self.batch_size)

    def batches(self, tokenizer: Path, names: Sequence[str]) -> list[Batch]:
        """The texts by length."""
        return self._fed(self.examples, tokenizer, names, sort=True)

    def epoch(self, tokenizer: Path, names: Sequence[str], seed: int) -> list[Batch]:
        """The texts in a shuffled order, little padded."""
        examples = self.examples
        lengths = [len(item.text) + len(item.pair or "") for item in examples.items]
        order = bucketed(lengths, self.batch_size, seed=seed)
        items = tuple(examples.items[index] for index in order)
        shuffled = replace(examples, items=items, labels=tuple(item.label for item in items))
        return self._fed(shuffled, tokenizer, names, sort=False)

    def _fed(self, examples: Examples, tokenizer: Path, names: Sequence[str], *, sort: bool) -> list[Batch]:
        sizes = {"batch_size": self.batch_size, "max_length": self.max_length}
        return batches(examples, tokenizer, names, **sizes, sort=sort)


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
