"""Plugin: a provider in a package of its own, registered with the stock onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qonnx_pipe.core.kernels import Event
from qonnx_pipe.errors import ProviderError
from qonnx_pipe.runtime.failures import FAILURES, brief
from qonnx_pipe.runtime.needs import Needs


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A `Provider` of this kind; `settings` and `events` are what files of the folder providers/ replace.

    `package` is what is installed, `module` what is imported. `variants`: distributions that bring the same module.
    `hardware`: what it looks for, for people; `kind`: the name that onnxruntime has for it.
    """

    name: str
    title: str
    ep: str
    package: str
    module: str
    hardware: str
    kind: str
    needs: Needs
    int8: str
    compiles: bool = False
    static: bool = False
    simulated: bool = False
    variants: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """Beside the stock onnxruntime."""
        return f"pip install {self.package}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """The stock onnxruntime and the plugin."""
        return "onnxruntime", self.package

    def version(self) -> str | None:
        """Of the plugin's package."""
        for name in (self.package, *self.variants):
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    def device(self) -> str:
        """Name of the first device, or its maker and type where it has none."""
        found = self.devices()[0]
        return str(found.ep_metadata.get("FULL_DEVICE_NAME") or f"{found.device.vendor} {found.device.type.name}")

    def session_arguments(self, options: ort.SessionOptions) -> dict[str, object]:
        """None: the first device of its kind is added to `options`. ProviderError when there is none."""
        options.add_provider_for_devices([self.devices()[0]], self.settings(options))
        return {}

    def settings(self, options: ort.SessionOptions) -> dict[str, str]:
        """Options of the provider."""
        del options
        return {}

    def devices(self) -> Sequence[ort.OrtEpDevice]:
        """Its devices, at least one; ProviderError when there is none, or when its library cannot be loaded."""
        kind = getattr(ort.OrtHardwareDeviceType, self.kind)
        found = [one for one in self.registered() if one.ep_name == self.ep and one.device.type == kind]
        if not found:
            raise ProviderError(f"{self.package} finds no {self.hardware} here", fix="run on a machine that has one")
        return found

    def registered(self) -> Sequence[ort.OrtEpDevice]:
        """All devices that onnxruntime sees, with the plugin's."""
        try:
            _register(self.ep, self.module)
        except FAILURES as error:
            what = f"{self.package} cannot be loaded: {brief(error)}"
            raise ProviderError(what, fix="install the libraries and drivers that it names") from error
        return tuple(ort.get_ep_devices())

    def events(self, log: Sequence[dict[str, Any]], folder: Path) -> tuple[Event, ...]:
        """None: what it compiles it does not profile."""
        del log, folder
        return ()


@cache
def _register(ep: str, module: str) -> None:
    """Once in a process: onnxruntime refuses a second time."""
    ort.register_execution_provider_library(ep, importlib.import_module(module).get_library_path())
