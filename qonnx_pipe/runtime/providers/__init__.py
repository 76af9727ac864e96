"""Execution providers by name: one file each, found by its name, in which an underscore stands for a dash."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.errors import ProviderError, UsageError
from qonnx_pipe.runtime.needs import Needs

ALWAYS_HERE = "cpu"
"""The provider that comes with onnxruntime."""


class Provider(Protocol):
    """What a file of this folder offers as `PROVIDER`."""

    @property
    def name(self) -> str:
        """Name in recipes and on the command line."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    @property
    def install(self) -> str:
        """The command that brings it."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip installs, beside numpy, into an environment of its own; nothing where no package has it."""

    @property
    def needs(self) -> Needs:
        """The machines that it is made for."""

    @property
    def int8(self) -> str:
        """Activations × weights that its MatMul multiplies in integers, for people: "u8 or s8 × s8", "none"."""

    @property
    def ep(self) -> str:
        """Name that onnxruntime gives it."""

    @property
    def compiles(self) -> bool:
        """Whether it takes whole subgraphs, so that onnxruntime cannot write the optimized graph."""

    @property
    def static(self) -> bool:
        """Whether it takes nothing but integers, in one shape: no float model."""

    @property
    def simulated(self) -> bool:
        """Whether no such hardware is there: results are exact, and time means nothing."""

    def version(self) -> str | None:
        """Version where it is installed, None where it is not."""

    def device(self) -> str:
        """What it runs on, "" when it does not tell; to be asked after `session_arguments`."""

    def session_arguments(self, options: Any) -> dict[str, object]:
        """Arguments of InferenceSession that choose it; may set what it needs in `options` (SessionOptions).

        `options.intra_op_num_threads` is set already. ProviderError when there is no device for it.
        """

    def events(self, log: Sequence[dict[str, Any]], folder: Path) -> tuple[Event, ...]:
        """What a profile says of the provider's own kernels, where it compiles; else nothing.

        `log` is onnxruntime's (its JSON), `folder` where it lies, and the provider's own beside it.
        """


def known() -> tuple[str, ...]:
    """Names of all providers that qpipe knows, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def check_name(name: str) -> None:
    """ProviderError for a name that no file has; imports nothing."""
    if name not in known():
        raise ProviderError(
            f"unknown execution provider {name!r}",
            fix=f"use one of {', '.join(known())}; `qpipe providers` says how to get each",
        )


def check_interpreters(names: Sequence[str], interpreters: Mapping[str, object]) -> None:
    """ProviderError for a name that no file has; UsageError for the interpreter of a provider not in `names`."""
    for name in (*names, *interpreters):
        check_name(name)
    if idle := sorted(interpreters.keys() - set(names)):
        what = f"an interpreter is given for {', '.join(idle)}, which is not asked to run"
        raise UsageError(what, fix="add it to the providers, or take its interpreter away")


def find(name: str) -> Provider:
    """The provider of that name, installed or not; errors as in `check_name`."""
    check_name(name)
    return cast(Provider, importlib.import_module(f"{__name__}.{name.replace('-', '_')}").PROVIDER)


def require(name: str) -> Provider:
    """The provider of that name; ProviderError also when its package is not installed."""
    provider = find(name)
    if provider.version() is None:
        what = f"execution provider {name!r} is not available here: {sys.executable} has no such package"
        raise ProviderError(what, fix=provider.install)
    return provider
