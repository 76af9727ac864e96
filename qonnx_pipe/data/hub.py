"""Data sets from the Hugging Face hub, through the optional `datasets` library."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from qonnx_pipe.data.files import pick
from qonnx_pipe.data.rows import Columns, Rows
from qonnx_pipe.data.tables import table
from qonnx_pipe.errors import DataError, MissingDependency

SCHEME = "hub:"


def read_hub(source: str, splits: Collection[str], columns: Columns) -> Rows:
    """Rows of `hub:NAME[:config]`; of the wanted splits, if the data set has more than one.

    Raises MissingDependency without the `datasets` library, DataError when the data set cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        fix = "pip install 'qonnx-pipe[export]'"
        raise MissingDependency("the hub needs the library `datasets`", where=source, fix=fix) from error
    name, _, config = source.removeprefix(SCHEME).partition(":")
    try:
        found = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError) as error:
        what = f"the data set cannot be loaded ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        fix = "check name, configuration, network and HF_HUB_OFFLINE, or give a local file"
        raise DataError(what, where=source, fix=fix) from error
    parts = {name: partial(_rows, f"{source} {name}", part, columns) for name, part in found.items()}
    return pick(parts, splits, source) if len(parts) > 1 else next(iter(parts.values()))()


def _rows(where: str, part: Any, columns: Columns) -> Rows:
    """Rows of one split (a `datasets.Dataset`): class numbers become names, -1 is no label."""
    features = {name: getattr(feature, "feature", feature) for name, feature in part.features.items()}
    classes = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}

    def named(name: str, value: object) -> object:
        if isinstance(value, list):
            return [named(name, one) for one in value]
        if name not in classes or not isinstance(value, int):
            return value
        return classes[name][value] if value >= 0 else None

    values = ({name: named(name, value) for name, value in record.items()} for record in part)
    records = ((f"{where}: item {n}", value) for n, value in enumerate(values, start=1))
    return table(where, list(part.features), records, columns)
