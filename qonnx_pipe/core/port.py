"""Port: an input or output of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """Its name, ONNX type in small letters ("int64", "float") and shape: numbers, and names of free dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
