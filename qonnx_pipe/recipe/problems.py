"""Problems: pydantic's findings as a reader needs them: the place, the key, what is wrong, what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qonnx_pipe.errors import Problem
from qonnx_pipe.recipe.document import Value
from qonnx_pipe.recipe.origin import Key, Origin, dotted
from qonnx_pipe.recipe.schema import Recipe

_NOUNS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
}

EMPTY = "must not be empty"
"""What is said of a list or text without content."""


def problems(failure: ValidationError, value: Value, origin: Origin) -> list[Problem]:
    """Every mistake of a recipe whose text says `value`, once.

    A misspelt key is not missing too, nor is a list empty because all that stands in it is wrong.
    """
    found = [_problem(error, _key(error["loc"], value), origin) for error in failure.errors()]
    misspelt = {(p.key.rpartition(".")[0], p.fix) for p in found if p.what == "unknown key"}

    def is_told(problem: Problem) -> bool:
        parent, _, name = problem.key.rpartition(".")
        if problem.what == EMPTY:
            return any(other.key.startswith(f"{problem.key}[") for other in found)
        return problem.what == "missing key" and (parent, f"did you mean {name}?") in misspelt

    return [problem for problem in found if not is_told(problem)]


def _key(location: tuple[int | str, ...], value: Value) -> Key:
    """Pydantic's location as a key of the recipe: without names of union branches and indices of lists of one."""
    key: list[str | int] = []
    current = value
    for part in location:
        if isinstance(part, str) and not part.startswith("~"):
            current = current.get(part) if isinstance(current, dict) else None
            key.append(part)
        elif isinstance(part, int) and isinstance(current, list):
            current = current[part] if part < len(current) else None
            key.append(part)
    return tuple(key)


def _problem(error: ErrorDetails, key: Key, origin: Origin) -> Problem:
    context: Mapping[str, Any] = error.get("ctx", {})
    kind, value = error["type"], error["input"]
    what, fix = error["msg"], ""
    if kind == "recipe":
        key = (*key, *_split(context["key"]))
        fix = context["fix"]
    elif kind == "extra_forbidden":
        what, fix = _unknown_key(key)
    elif kind == "missing" and isinstance(last := key[-1], int):
        key, what, fix = key[:-1], f"a list of {last + 1} or more items is needed", _description(key)
    elif kind == "missing":
        what, fix = "missing key", f"add {key[-1]}: {_description(key)}"
    elif kind in ("literal_error", "enum"):
        names = [word or number for word, number in re.findall(r"'([^']*)'|(\d+)", context["expected"])]
        names = names or [context["expected"]]
        what, fix = f"{_shown(value)} is not possible here", _suggestion(value, names)
    elif kind in _NOUNS:
        what, fix = f"must be {_NOUNS[kind]}, not {_shown(value)}", _yes_or_no(kind, value)
    elif kind in _LIMITS:
        what = f"must be {_LIMITS[kind].format(**context)}, not {_shown(value)}"
    elif kind == "string_pattern_mismatch":
        what, fix = f"{_shown(value)} is not possible here", _description(key)
    elif kind in ("too_short", "string_too_short"):
        what, fix = EMPTY, _description(key)
    return Problem(origin.where(key), dotted(key), what, fix)


def _split(path: str) -> Key:
    return tuple(int(part) if part.isdigit() else part for part in path.split(".") if part)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    return repr(value)


def _suggestion(value: object, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}"


def _yes_or_no(kind: str, value: object) -> str:
    spelled = kind == "bool_type" and str(value).lower() in ("yes", "no", "on", "off", "y", "n")
    return "YAML 1.2 knows only true and false" if spelled else ""


def _unknown_key(key: Key) -> tuple[str, str]:
    model = _model_at(key[:-1])
    names = [info.alias or name for name, info in model.model_fields.items()]
    return "unknown key", _suggestion(key[-1], names)


def _description(key: Key) -> str:
    """What the schema says about a key, up to its first stop."""
    while key and isinstance(key[-1], int):
        key = key[:-1]
    for name, info in _model_at(key[:-1]).model_fields.items():
        if key[-1] in (name, info.alias):
            return re.split(r"[.;](?: |$)", info.description or "")[0]
    return ""


def _model_at(key: Key) -> type[BaseModel]:
    """The part of the schema that a key's mapping belongs to."""
    model: type[BaseModel] = Recipe
    for part in key:
        for name, info in model.model_fields.items():
            if part in (name, info.alias):
                model = _model_in(info.annotation) or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
