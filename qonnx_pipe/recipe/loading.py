"""Loading: a YAML file and `--set` options → a Recipe, or every mistake in them at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.recipe.document import Document, Value
from qonnx_pipe.recipe.origin import Key, Origin, dotted
from qonnx_pipe.recipe.problems import problems
from qonnx_pipe.recipe.schema import Recipe


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with overrides such as `validate.gates.speedup=2` or `quantize.rules[0].match.layer=3` on top.

    RecipeError with every mistake: file:line (or `--set`), key, what is wrong and what to write instead.
    """
    document = Document.parse(_text(path), str(path))
    if not isinstance(document.value, dict):
        what = "an empty recipe" if document.value is None else "a recipe is a mapping of keys"
        raise RecipeError([Problem(str(path), "", what, "start from a recipe that `qpipe recipes` lists")])
    for override in overrides:
        _override(document, override)
    origin = Origin(path, document.places)
    try:
        recipe = Recipe.model_validate(_frozen(document.value), context=origin)
    except ValidationError as failure:
        document.problems += problems(failure, document.value, origin)
    if document.problems:
        raise RecipeError(sorted(document.problems, key=_line))
    return recipe


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as failure:
        what = "there is no such recipe" if isinstance(failure, FileNotFoundError) else "a folder, not a recipe"
        raise RecipeError([Problem(str(path), "", what, "`qpipe recipes` lists those that come with qpipe")]) from None
    except UnicodeDecodeError as failure:
        what = f"not UTF-8 text (byte {failure.start})"
        raise RecipeError([Problem(str(path), "", what, "save it as UTF-8")]) from None


def _override(document: Document, override: str) -> None:
    """Apply one `key.path=value`; its mistakes join the document's."""
    name, equals, text = override.partition("=")
    key: Key = tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", name))
    if not equals or not key:
        fix = "write --set key.path=value, for example --set quantize.rules[0].match.layer=3"
        document.problems.append(Problem("--set", "", f"{override!r} sets nothing", fix))
        return
    try:
        value = Document.parse(text, "--set")
        value.places = dict.fromkeys(value.places, "--set")
        document.problems += (Problem("--set", dotted((*key, p.key)), p.what, p.fix) for p in value.problems)
        document.put(key, value)
    except RecipeError as failure:
        document.problems += (Problem("--set", dotted(key), p.what, p.fix) for p in failure.problems)


def _frozen(value: Value) -> object:
    """Lists as tuples, all the way down."""
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _line(problem: Problem) -> tuple[bool, int]:
    """Order of the file; overrides last."""
    line = problem.where.rpartition(":")[2]
    return (problem.where == "--set", int(line) if line.isdigit() else 0)
