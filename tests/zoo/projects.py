"""Projects: a recipe for a tiny checkpoint with data of its own, and the cache that one finished run left."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.zoo.checkpoints import IMAGE_SIZE, WORDS

LABELS = ("negative", "positive")
RECIPE = """\
version: 1
name: tiny
model: {{source: "{checkpoint}", task: {task}}}
data:
  calibration: {{source: "{data}", samples: 24, batch_size: 4, max_length: 24}}
  evaluation: {{source: "{data}", batch_size: 8, max_length: 24}}
quantize:
  activations: {{range: running_minmax}}
  rules:
    - match: {{role: ffn.input}}
      activations: {{range: mse}}
validate:
  latency: {{shapes: []}}
  gates: {{agreement: 0.5, int8_matmuls: 0.9}}
"""


@dataclass(frozen=True)
class Project:
    """A folder with `recipe.yaml` and data; `cache` holds the entries of a finished run, `out` its files."""

    folder: Path
    cache: Path
    out: Path

    @property
    def recipe(self) -> Path:
        """The recipe file."""
        return self.folder / "recipe.yaml"

    def copy_of_the_run(self, folder: Path) -> Project:
        """The same recipe and data with a cache and a run directory of its own."""
        shutil.copytree(self.cache, folder / "cache")
        shutil.copytree(self.out, folder / "run")
        return replace(self, cache=folder / "cache", out=folder / "run")


def make_project(folder: Path, checkpoint: Path, task: str) -> Project:
    """Write recipe and data; nothing is run."""
    folder.mkdir(parents=True)
    data = images(folder / "data.npz") if task == "image-classification" else table(folder / "data.csv")
    text = RECIPE.format(checkpoint=checkpoint, task=task, data=data.name)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return Project(folder, folder / "cache", folder / "run")


def table(path: Path, count: int = 100, *, seed: int = 0, labels: Sequence[str] = LABELS) -> Path:
    """A CSV of sentences with labels."""
    rng = np.random.default_rng(seed)
    rows = [f"{' '.join(rng.choice(WORDS, rng.integers(3, 30)))},{rng.choice(labels)}" for _ in range(count)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def images(path: Path, count: int = 60) -> Path:
    """An .npz of noise and labels."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(count, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    np.savez(path, pixel_values=pixels, labels=rng.choice(LABELS, count))
    return path
