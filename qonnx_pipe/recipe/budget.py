"""The `quantize.budget` part of a recipe: how many bits all weights together may have, and how they are shared out."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from qonnx_pipe.core.sensitivity import Estimator
from qonnx_pipe.recipe.strict import Strict, mistake

_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parsed_size(text: str) -> float:
    """Bytes of a "30MB"; ValueError for anything else."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2] not in _UNITS or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is no size")
    return float(found[1]) * _UNITS[found[2]]


def _size(value: object) -> object:
    try:
        parsed_size(str(value))
    except ValueError:
        raise mistake("{value} is no size", fix="a number with its unit, such as 30MB", value=repr(value)) from None
    return value


Width = Literal[2, 3, 4, 6, 8]
TableWidth = Literal[2, 4, 8]


class Budget(Strict):
    """Bits by sensitivity: each weight of the encoder gets one of `choices`, all together stay within the limits.

    A rule that gives a weight a dtype, or leaves it float, has the last word.
    """

    bits: Annotated[float, Field(gt=0, le=8)] | None = Field(
        default=None, description="Most bits a weight, on average over the weights that are shared out."
    )
    size: Annotated[str, BeforeValidator(_size, json_schema_input_type=str)] | None = Field(
        default=None, description="Most bytes of the whole file, such as 30MB (MB: a million)."
    )
    choices: Annotated[tuple[Width, ...], Field(min_length=1)] = Field(
        default=(2, 3, 4, 8), description="Bits that a weight of the encoder may have."
    )
    embeddings: tuple[TableWidth, ...] = Field(
        default=(), description="Bits that an embedding table may have; none (the default): as `embeddings` says."
    )
    strategy: Literal["exact", "greedy", "qbert"] = Field(
        default="exact",
        description="exact (the default): least expected loss, by an integer programme. greedy: the cheapest step "
        "first. qbert: of two choices, the layers with the largest curvature get more bits (Shen et al. 2019).",
    )
    estimator: Estimator = Field(
        default="measured",
        description="What tells the expected loss, for exact and greedy. measured (the default): the model is run "
        "with one weight quantized at a time. The others take gradients; `qpipe analyse sensitivity` compares them.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise mistake("a budget without a limit", fix="give bits or size")
        if self.strategy == "qbert" and (len(set(self.choices)) != 2 or self.embeddings):
            fix = "choices: [2, 3] and no embeddings, or strategy: exact"
            raise mistake("Q-BERT's rule chooses between two widths of encoder weights", key="strategy", fix=fix)
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Mean bits, bytes of the file: those that are limited."""
        found = {"bits": self.bits, "size": parsed_size(self.size) if self.size else None}
        return {name: limit for name, limit in found.items() if limit is not None}

    @property
    def questions(self) -> Estimator | Literal["layers"]:
        """What must be known of the weights: an estimator, or the layers' curvature for Q-BERT's rule."""
        return "layers" if self.strategy == "qbert" else self.estimator
