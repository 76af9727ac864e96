"""Strict: the base of every mapping in a recipe: frozen, no unknown keys, no silent conversions."""

from __future__ import annotations

from typing import Annotated, LiteralString

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A frozen mapping of a recipe. YAML lists arrive as tuples."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def mistake(what: LiteralString, *, key: str = "", fix: str = "", **values: object) -> PydanticCustomError:
    """A mistake for a validator to raise: `what` is a template for `values`, `key` is relative to the value checked."""
    return PydanticCustomError("recipe", what, {"key": key, "fix": fix, **values})


def as_tuple(value: object) -> object:
    """One item stands for a list of one."""
    return value if isinstance(value, tuple) else (value,)
