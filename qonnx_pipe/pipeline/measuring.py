"""Measuring: what workers are given in a run, and what the figures hold for that they measure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qonnx_pipe.errors import ProviderError
from qonnx_pipe.recipe.schema import Validation
from qonnx_pipe.runtime import machine, providers
from qonnx_pipe.runtime.providers import ALWAYS_HERE

if TYPE_CHECKING:
    from qonnx_pipe.runtime.client import Limits


def limits_of(settings: Validation) -> Limits:
    """What a worker may take."""
    from qonnx_pipe.runtime.client import Limits

    return Limits(settings.time_limit, settings.memory_limit)


def hardware() -> list[str | int]:
    """What measured times hold for."""
    return [machine.processor(), machine.cores()]


def versions(names: Iterable[str], settings: Validation) -> list[str | None]:
    """What figures of these providers depend on beside the libraries: own versions, or what other interpreters have."""
    return [_version(name, settings.pythons.get(name)) for name in names]


def _version(provider: str, python: Path | None) -> str | None:
    if python is None:
        return None if provider == ALWAYS_HERE else providers.find(provider).version()
    from qonnx_pipe.runtime.client import installed

    try:
        found = installed(provider, python)
    except ProviderError as failure:
        return failure.what
    return f"{found.version}, onnxruntime {found.onnxruntime}, {found.device}"
