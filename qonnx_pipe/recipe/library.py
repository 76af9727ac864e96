"""Library: the recipes that come with qpipe, in a checkout and in an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

from qonnx_pipe.recipe.loading import load
from qonnx_pipe.recipe.schema import Recipe

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """`qonnx_pipe/recipes_data` of a wheel (pyproject.toml puts it there), else `recipes/` of the checkout."""
    packaged = _PACKAGE / "recipes_data"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "recipes"


def find(recipe: str) -> Path:
    """The file that a name on the command line means: a path, or else a packaged recipe's name without `.yaml`."""
    path, packaged = Path(recipe), folder() / f"{recipe}.yaml"
    return packaged if not path.exists() and packaged.is_file() else path


def listed() -> list[tuple[Path, Recipe, str]]:
    """Every packaged recipe by name: file, recipe, description (its first comment line)."""
    return [(path, load(path), _description(path)) for path in sorted(folder().glob("*.yaml"))]


def _description(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")
