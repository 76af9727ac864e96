"""Verdict file: a `verdict.json` read back; what is wrong with it is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path

from qonnx_pipe.core.verdict import Verdict
from qonnx_pipe.errors import DataError

VERSION = 1


def read_verdict(path: Path) -> Verdict:
    """The verdict in a file; DataError when it is missing, damaged, or of a version that this qpipe does not know."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        fix = "name the verdict.json that `qpipe run` or `qpipe validate --out` wrote"
        raise DataError("there is no such verdict", where=str(path), fix=fix) from error
    except ValueError as error:
        raise _damaged(path) from error
    version = data.get("version") if isinstance(data, dict) else None
    if version is not None and version != VERSION:
        fix = f"this qpipe reads version {VERSION}: use the qpipe that wrote it, or make it again with this one"
        raise DataError(f"a verdict of version {version!r}", where=str(path), fix=fix)
    try:
        return Verdict.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    fix = "remove it and run the pipeline again; what is cached is not made twice"
    return DataError("damaged, or written by another version of qpipe", where=str(path), fix=fix)
