"""Places: where qpipe keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from qonnx_pipe.errors import UsageError


def cache_root() -> Path:
    """$QPIPE_CACHE, or `qonnx_pipe` in $XDG_CACHE_HOME, or in ~/.cache; UsageError for a user without a home."""
    if chosen := os.environ.get("QPIPE_CACHE"):
        return Path(chosen)
    cache_home = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache_home).is_absolute():
        return Path(cache_home) / "qonnx_pipe"
    try:
        return Path.home() / ".cache" / "qonnx_pipe"
    except RuntimeError as error:
        raise UsageError("no home folder for the cache", fix="set QPIPE_CACHE to a folder") from error
