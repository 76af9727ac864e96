"""Environment: a folder with a Python of its own that holds numpy and one provider's build of onnxruntime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from qonnx_pipe.core.files import make_folder
from qonnx_pipe.errors import ProviderError, UsageError
from qonnx_pipe.runtime import providers


def make_environment(provider: str, folder: Path) -> Path:
    """Make `folder` with what the provider requires, from pip's own index; its interpreter.

    A failure or Ctrl-C leaves no folder. Raises UsageError when there is something at `folder`, ProviderError when the
    provider is unknown, in no package, or when pip refuses, which it says itself.
    """
    found = providers.find(provider)
    if not found.requirements:
        raise ProviderError(f"{provider} is {found.needs.missing()}", fix="name another provider: `qpipe providers`")
    if folder.exists():
        raise UsageError("there is something already", where=str(folder), fix="name a folder that does not exist")
    make_folder(folder.parent)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        _run(provider, sys.executable, "-m", "venv", str(folder))
        python = next(path for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.exists())
        _run(provider, str(python), "-m", "pip", "install", "--quiet", "numpy", *found.requirements)
        undo.pop_all()
    return python


def _run(provider: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        errors = [line for line in told if line.startswith("ERROR:")]
        what = f"no environment for {provider}: {(errors or told)[-1][:300]}"
        raise ProviderError(what, fix="see `qpipe providers` for what this machine can have, and pip's own settings")
