"""AIMET's form of encodings, which QAIRT's converter takes as quantization overrides: read and written as plain JSON.

Two versions are in use: 0.6.1, a list of dictionaries a tensor, and 1.0.0, a list of entries with lists inside. In
both a tensor is value = (code + offset) · scale with codes 0 … 2^bits − 1, whatever its type: the offset of a signed
symmetric type is −2^(bits − 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import Encoding, FloatArray
from qonnx_pipe.core.granularity import PerChannel, PerTensor
from qonnx_pipe.core.qtype import QType

Version = Literal["1.0.0", "0.6.1"]
VERSIONS: tuple[Version, ...] = get_args(Version)

SECTIONS = ("activation_encodings", "param_encodings")
FEWEST_BITS = 4
"""The narrowest type that the form has."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The steps of one tensor: `scale` (float32, > 0) and `offset` (int64), both of shape (n,), checked at birth.

    One for the whole tensor, or one for each channel. `symmetric`: a signed type around 0.
    """

    bits: int
    scale: FloatArray
    offset: npt.NDArray[np.int64]
    symmetric: bool

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.offset.shape or not len(self.scale):
            raise ValueError(f"{self.scale.size} scales, {self.offset.size} offsets")
        if not (np.all(np.isfinite(self.scale)) and np.all(self.scale > 0)):
            raise ValueError("a scale is not finite and positive")
        if np.any(self.offset > 0) or np.any(self.offset < 1 - (1 << self.bits)):
            raise ValueError(f"an offset is outside of [{1 - (1 << self.bits)}, 0]: zero would have no code")

    @classmethod
    def of(cls, encoding: Encoding) -> Grid:
        """The grid of a PerTensor or PerChannel encoding; ValueError for another."""
        if not isinstance(encoding.granularity, PerTensor | PerChannel):
            raise ValueError("only one scale a tensor or a channel has this form")
        zero_point = np.atleast_1d(encoding.zero_point).astype(np.int64)
        symmetric = encoding.dtype.signed and not zero_point.any()
        return cls(encoding.dtype.bits, np.atleast_1d(encoding.scale), encoding.dtype.qmin - zero_point, symmetric)

    def encoding(self, dtype: QType, granularity: PerTensor | PerChannel) -> Encoding:
        """The same steps as codes of `dtype`, which has as many bits; one scale for PerTensor, n for PerChannel."""
        zero_point = (dtype.qmin - self.offset).astype(np.int32)
        shape = () if isinstance(granularity, PerTensor) else self.scale.shape
        return Encoding(dtype, granularity, self.scale.reshape(shape), zero_point.reshape(shape))


def to_json(activations: Mapping[str, Encoding], params: Mapping[str, Encoding], version: Version) -> dict[str, object]:
    """The document for tensors by name; ValueError for encodings that `Grid.of` refuses."""
    sections = zip(SECTIONS, (activations, params), strict=True)
    if version == "0.6.1":
        return {"version": version} | {
            section: {name: _old_entries(Grid.of(found)) for name, found in encodings.items()}
            for section, encodings in sections
        }
    return {"version": version} | {
        section: [{"name": name, **_new_entry(found)} for name, found in encodings.items()]
        for section, encodings in sections
    }


def from_json(document: object) -> dict[str, Grid | None]:
    """The grid of every tensor by name, None where the document says float.

    Without a version the document is as 0.6.1. An entry without scale or offset has the steps of its min and max; an
    offset of 0 in a symmetric entry, as some tools write it, means the middle. Raises ValueError with what is wrong,
    and at which tensor.
    """
    if not isinstance(document, Mapping) or not any(section in document for section in SECTIONS):
        raise ValueError(f"neither {SECTIONS[0]} nor {SECTIONS[1]}")
    version = document.get("version", "0.6.1")
    if version not in VERSIONS:
        raise ValueError(f"version {version!r} is unknown: {' and '.join(VERSIONS)} are read")
    found: dict[str, Grid | None] = {}
    for section in SECTIONS:
        items = _old_items if version == "0.6.1" else _new_items
        for name, entries in items(section, document.get(section)):
            if name in found:
                raise ValueError(f"{name}: two encodings")
            found[name] = _grid(name, entries)
    return found


def _old_entries(grid: Grid) -> list[dict[str, object]]:
    lowest = grid.offset * grid.scale.astype(np.float64)
    highest = (grid.offset + (1 << grid.bits) - 1) * grid.scale.astype(np.float64)
    columns = (grid.scale.astype(np.float64), grid.offset, lowest, highest)
    return [
        {
            "bitwidth": grid.bits,
            "dtype": "int",
            "is_symmetric": str(grid.symmetric),
            "max": high,
            "min": low,
            "offset": offset,
            "scale": scale,
        }
        for scale, offset, low, high in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _new_entry(encoding: Encoding) -> dict[str, object]:
    grid = Grid.of(encoding)
    return {
        "bw": grid.bits,
        "dtype": "INT",
        "enc_type": "PER_CHANNEL" if isinstance(encoding.granularity, PerChannel) else "PER_TENSOR",
        "is_sym": grid.symmetric,
        "offset": grid.offset.tolist(),
        "scale": grid.scale.astype(np.float64).tolist(),
    }


Entry = Mapping[str, Any]


def _old_items(section: str, content: object) -> Iterable[tuple[str, list[Entry]]]:
    """Tensors and their entries, one a channel, of a section of 0.6.1."""
    if not isinstance(content, Mapping | None):
        raise ValueError(f"{section} is no dictionary, as version 0.6.1 has it")
    for name, entries in (content or {}).items():
        listed = entries if isinstance(entries, list) else [entries]
        if not listed or not all(isinstance(entry, Mapping) and "bitwidth" in entry for entry in listed):
            raise ValueError(f"{name}: no list of encodings with a bitwidth; is it a module of torch, no ONNX tensor?")
        yield name, listed


def _new_items(section: str, content: object) -> Iterable[tuple[str, list[Entry]]]:
    """Tensors and their entries, as 0.6.1 would have them, of a section of 1.0.0."""
    if not isinstance(content, list | None):
        raise ValueError(f"{section} is no list, as version 1.0.0 has it")
    for place, entry in enumerate(content or []):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{section}[{place}]: an entry without a name")
        yield entry["name"], list(_as_old(entry))


def _as_old(entry: Entry) -> Iterable[Entry]:
    name, kind = entry["name"], entry.get("enc_type", "PER_TENSOR")
    common = {"bitwidth": entry.get("bw"), "dtype": entry.get("dtype", "INT"), "is_symmetric": entry.get("is_sym")}
    if str(common["dtype"]).lower() == "float":
        return [common]
    if kind not in ("PER_TENSOR", "PER_CHANNEL") or "zero_point_shift" in entry:
        raise ValueError(f"{name}: encodings of the kind {kind!r} are not read: only PER_TENSOR and PER_CHANNEL")
    scales, offsets = entry.get("scale"), entry.get("offset")
    if not (isinstance(scales, list) and isinstance(offsets, list) and len(scales) == len(offsets)):
        raise ValueError(f"{name}: scale and offset are no lists of one length")
    return [common | {"scale": scale, "offset": offset} for scale, offset in zip(scales, offsets, strict=True)]


def _grid(name: str, entries: list[Entry]) -> Grid | None:
    """The grid of one tensor's entries of 0.6.1, None for float."""
    kinds = {str(entry.get("dtype", "int")).lower() for entry in entries}
    if kinds == {"float"}:
        return None
    try:
        if kinds != {"int"}:
            raise ValueError(f"the dtype is {' and '.join(sorted(kinds)) or 'missing'}, not int or float")
        bits = entries[0]["bitwidth"]
        if type(bits) is not int or not 2 <= bits <= 32 or any(entry["bitwidth"] != bits for entry in entries):
            raise ValueError("no one whole number of bits from 2 to 32")
        steps = [_step(entry, bits) for entry in entries]
        symmetric = all(str(entry.get("is_symmetric")).lower() == "true" for entry in entries)
        scale, offset = (np.asarray(column) for column in zip(*steps, strict=True))
        if symmetric and not offset.any():
            offset = offset - (1 << (bits - 1))
        with np.errstate(over="ignore"):  # Grid refuses infinity
            return Grid(bits, scale.astype(np.float32), offset.astype(np.int64), symmetric)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from error


def _step(entry: Entry, bits: int) -> tuple[float, int]:
    """Scale and offset of one entry."""
    if "scale" not in entry or "offset" not in entry:
        low, high = (_number(entry, key) for key in ("min", "max"))
        scale = (high - low) / ((1 << bits) - 1)
        return scale, round(low / scale) if scale > 0 else 0
    offset = _number(entry, "offset")
    if offset != round(offset):
        raise ValueError(f"offset {offset} is no whole number")
    return _number(entry, "scale"), round(offset)


def _number(entry: Entry, key: str) -> float:
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
        raise ValueError(f"{key} is {value!r}, no number")
    return float(value)
