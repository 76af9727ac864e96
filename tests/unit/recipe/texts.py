"""Recipes for the tests of this folder."""

from pathlib import Path

PLAIN = """\
version: 1
name: plain
model: {source: "package:p/model", task: fill-mask}
data:
  calibration: {source: c.csv}
  evaluation: {source: e.csv}
"""


def written(folder: Path, text: str) -> Path:
    """A recipe file in `folder`."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path
