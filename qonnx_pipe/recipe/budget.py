"""The `quantize.budget` part of a recipe: bits, bytes and time that all weights together may take, how shared out."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from qonnx_pipe.core.sensitivity import Estimator
from qonnx_pipe.recipe.strict import Positive, Strict, mistake

_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")

LatencyUnit = Literal["ms", "x"]


def parsed_size(text: str) -> float:
    """Bytes of a "30MB"; ValueError for anything else."""
    amount, unit = _amount(text, _UNITS)
    return amount * _UNITS[unit]


def parsed_latency(text: str) -> tuple[float, LatencyUnit]:
    """Amount and unit of an "8ms" or "0.5x"; ValueError for anything else."""
    amount, unit = _amount(text, ("ms", "x"))
    return amount, "ms" if unit == "ms" else "x"


def _amount(text: str, units: Container[str]) -> tuple[float, str]:
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2] not in units or float(found[1]) <= 0:
        raise ValueError(f"{text!r} is no positive number with its unit")
    return float(found[1]), found[2]


def _size(value: object) -> object:
    try:
        parsed_size(str(value))
    except ValueError:
        raise mistake("{value} is no size", fix="a number with its unit, such as 30MB", value=repr(value)) from None
    return value


def _latency(value: object) -> object:
    try:
        parsed_latency(str(value))
    except ValueError:
        fix = "milliseconds, such as 8ms, or a share of the float model's time, such as 0.5x"
        raise mistake("{value} is no latency", fix=fix, value=repr(value)) from None
    return value


Width = Literal[2, 3, 4, 6, 8, "float"]
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
    latency: Annotated[str, BeforeValidator(_latency, json_schema_input_type=str)] | None = Field(
        default=None,
        description="Most time of one run on the target, as measured kernels let expect it: 8ms, or 0.5x of the float "
        "model's. Bits alone rarely change it: what does is which weights stay float.",
    )
    shape: tuple[Positive, Positive] = Field(
        default=(1, 128), description="[batch, sequence] that a latency is about; weights are timed at it."
    )
    choices: Annotated[tuple[Width, ...], Field(min_length=1)] = Field(
        default=(2, 3, 4, 8),
        description="Bits that a weight of the encoder may have. `float`, which a latency adds where nothing is said "
        "here, leaves it float with what enters it.",
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

    @model_validator(mode="before")
    @classmethod
    def _float_for_time(cls, data: object) -> object:
        if isinstance(data, Mapping) and data.get("latency") is not None and "choices" not in data:
            return {**data, "choices": (*cls.model_fields["choices"].default, "float")}
        return data

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise mistake("a budget without a limit", fix="give bits, size or latency")
        if not self.widths:
            raise mistake("nothing to choose but float", key="choices", fix="add bits, such as [8, float]")
        if self.strategy == "qbert" and (len(self.widths) != 2 or self.leaves_float or self.embeddings):
            fix = "choices: [2, 3] and no embeddings, or strategy: exact"
            raise mistake("Q-BERT's rule chooses between two widths of encoder weights", key="strategy", fix=fix)
        if self.latency is not None and self.strategy != "exact":
            what = "strategy {strategy} cannot keep a latency: fewer bits are not always faster"
            raise mistake(what, key="strategy", fix="strategy: exact", strategy=self.strategy)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits among `choices`, ascending."""
        return tuple(sorted({width for width in self.choices if width != "float"}))

    @property
    def leaves_float(self) -> bool:
        """Whether a weight may stay float."""
        return "float" in self.choices

    @property
    def limits(self) -> dict[str, float]:
        """Mean bits, bytes of the file, time in its own unit: those that are limited."""
        latency = parsed_latency(self.latency)[0] if self.latency else None
        found = {"bits": self.bits, "size": parsed_size(self.size) if self.size else None, "latency": latency}
        return {name: limit for name, limit in found.items() if limit is not None}

    @property
    def latency_unit(self) -> LatencyUnit:
        """ms, or x: times the float model."""
        return parsed_latency(self.latency)[1] if self.latency else "ms"

    @property
    def questions(self) -> Estimator | Literal["layers"]:
        """What must be known of the weights: an estimator, or the layers' curvature for Q-BERT's rule."""
        return "layers" if self.strategy == "qbert" else self.estimator
