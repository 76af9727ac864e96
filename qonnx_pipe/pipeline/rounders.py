"""Rounders: what finds the codes of weights, for each way of rounding that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from qonnx_pipe.core.spec import Rounding
from qonnx_pipe.observers import gptq
from qonnx_pipe.recipe.quantize import AdaRound, Gptq, Quantize

if TYPE_CHECKING:
    from qonnx_pipe.stages.round import Rounder


def settings_of(quantize: Quantize) -> dict[Rounding, AdaRound | Gptq]:
    """What the recipe says of each way that it asks for."""
    found: dict[Rounding, AdaRound | Gptq] = {}
    if "adaround" in quantize.roundings:
        found["adaround"] = quantize.adaround
    if "gptq" in quantize.roundings:
        found["gptq"] = quantize.gptq
    return found


def rounders(settings: Mapping[Rounding, AdaRound | Gptq]) -> dict[Rounding, Rounder]:
    """The functions; torch is imported only where AdaRound is asked for."""
    found: dict[Rounding, Rounder] = {}
    for name, one in settings.items():
        given = one.model_dump(exclude={"tokens"})
        if name == "adaround":
            from qonnx_pipe.source import adaround

            found[name] = partial(adaround.learn_rounding, settings=adaround.Settings(**given))
        else:
            found[name] = partial(gptq.gptq, settings=gptq.Settings(**given))
    return found
