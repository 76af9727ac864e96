"""`package:NAME/path/inside`: a file that an installed package brought, found without importing the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from qonnx_pipe.errors import QpipeError

SCHEME = "package:"


def package_path(source: str, failure: type[QpipeError]) -> Path:
    """Where `package:NAME/path/inside` lies; NAME is what one imports.

    Raises `failure` when the package is not installed or does not hold the path.
    """
    name, _, inside = source.removeprefix(SCHEME).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        fix = f"pip install {name.replace('_', '-')} (the name on the index may differ from the import name)"
        raise failure(f"package {name!r} is not installed", where=source, fix=fix)
    folder = Path(spec.submodule_search_locations[0])
    path = folder / inside
    if ".." in Path(inside).parts or not path.exists():
        raise failure(f"package {name!r} holds no {inside!r}", where=source, fix=f"look into {folder}")
    return path
