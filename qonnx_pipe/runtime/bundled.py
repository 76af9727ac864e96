"""Bundled: a provider inside a build of onnxruntime that stands in the place of the stock one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.runtime.needs import Needs


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A `Provider` of this kind; `settings` is what files of the folder providers/ replace."""

    name: str
    title: str
    ep: str
    requirements: tuple[str, ...]
    needs: Needs
    int8: str
    compiles: bool = False
    static: bool = False
    simulated: bool = False
    next: tuple[str, ...] = ()
    """Providers that nodes go to before the CPU."""

    @property
    def install(self) -> str:
        """By the command that makes an environment, since its onnxruntime takes the place of the stock one."""
        return f"qpipe environment {self.name} DIR" if self.requirements else "build onnxruntime with it"

    def version(self) -> str | None:
        """Of onnxruntime, where this build holds the provider."""
        return str(ort.__version__) if self.ep in ort.get_available_providers() else None

    def device(self) -> str:
        """Unknown: such providers do not tell."""
        return ""

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        """The provider, those after it, and its settings."""
        return {"providers": [(self.ep, self.settings(options)), *self.next]}

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        """Options of the provider; may change those of the session."""
        del options
        return {}

    def events(self, log: Sequence[dict[str, Any]], folder: Path) -> tuple[Event, ...]:
        """None: what it compiles it does not profile."""
        del log, folder
        return ()
