"""A classifier that can learn: its checkpoint, 200 texts with their labels, and the recipe that trains it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.zoo.checkpoints import WORDS
from tests.zoo.learners import make_learner

Run = Callable[..., tuple[int, str, str]]
"""A command's words → exit code, stdout, stderr."""

TRAINING = """\
version: 1
name: learned
model: {source: checkpoint, task: text-classification}
data:
  train: {source: texts.csv, batch_size: 8, max_length: 16}
  validation: {source: texts.csv, max_length: 16}
  evaluation: {source: texts.csv, max_length: 16}
train: {epochs: 4, learning_rate: 0.005}
"""


def write_learner(folder: Path) -> list[str]:
    """Fill a folder; the rows of texts.csv, in which happy and sad texts have no word in common."""
    make_learner(folder / "checkpoint")
    rng = np.random.default_rng(0)
    rows = [f"{' '.join(rng.choice(WORDS[index % 2 :: 2], 8))},{('happy', 'sad')[index % 2]}" for index in range(200)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "learned.yaml").write_text(TRAINING)
    return rows
