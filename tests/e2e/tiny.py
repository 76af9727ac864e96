"""A tiny task: two dozen labelled texts in the zoo's vocabulary, and a recipe for a classifier of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

TEXTS = [
    (f"{first} {thing} {last}", label)
    for (first, label), thing, last in product(
        (("good", "positive"), ("bad", "negative")),
        ("film", "match", "market", "year"),
        ("after all", "now", "for you"),
    )
]

RECIPE = """\
version: 1
name: tiny
model: {source: checkpoint, task: text-classification}
data:
  calibration: {source: texts.csv, split: all, max_length: 16, batch_size: 4}
  evaluation: {source: texts.csv, split: all, max_length: 16}
validate: {latency: {shapes: []}}
"""


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    """Texts and labels as a table with a header."""
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
