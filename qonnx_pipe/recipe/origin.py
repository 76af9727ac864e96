"""Origin: where a recipe's keys stand, for complaints, and its folder, for paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import PrivateAttr

from qonnx_pipe.recipe.strict import Strict

Key = tuple[str | int, ...]
RECIPE = "recipe:"
SCHEMES = ("package:", "hub:", "npm:", "sdist:", RECIPE)
"""What a source begins with that is no path."""

CLOZE = "cloze:"
"""What stands in front of another source."""


def dotted(key: Key) -> str:
    """A key as a reader sees it: quantize.rules[1].match.role."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


@dataclass(frozen=True)
class Origin:
    """Where a recipe comes from: its file, and where each key stands ("file.yaml:12" or "--set")."""

    path: Path = Path()
    places: Mapping[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Place of a key, or of the nearest mapping or list around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return self.places.get((), str(self.path))


class Placed(Strict):
    """A mapping that names sources, and knows its recipe's folder."""

    _folder: Path = PrivateAttr(Path())

    def model_post_init(self, context: object) -> None:
        """Remember the recipe's folder."""
        if isinstance(context, Origin):
            self._folder = context.path.parent

    def located(self, source: str) -> str:
        """`source` with a path made absolute; a scheme, a hub id or what does not exist stays as it is written."""
        if source.startswith(CLOZE):
            return CLOZE + self.located(source.removeprefix(CLOZE))
        if source.startswith(SCHEMES):
            return source
        written = Path(source).expanduser()
        for candidate in (self._folder / written, written):
            if candidate.exists():
                return str(candidate.absolute())
        return str((self._folder / written).absolute()) if source.startswith((".", "~")) else source
