"""Python interpreters of their own for workers: one with numpy and onnxruntime alone, and planted ones."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

NEEDED = ("numpy", "onnxruntime", "flatbuffers", "protobuf", "packaging")
"""Distributions that a worker may find; of onnxruntime's own dependencies those that it imports."""


def bare(folder: Path) -> Path:
    """An environment that holds NEEDED alone, borrowed from this one; its interpreter. Nothing is downloaded."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = (folder / "lib").glob("python3*/site-packages")
    for name in NEEDED:
        try:
            files = metadata.distribution(name).files or ()
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in files if file.parts[0] != ".."}:
            origin = metadata.distribution(name).locate_file(top)
            if not (packages / top).exists():
                (packages / top).symlink_to(str(origin))
    return folder / "bin" / "python"


def script(path: Path, *lines: str) -> Path:
    """A file that is started as an interpreter and does something else."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return path
