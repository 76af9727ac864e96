"""Encoding: the scale and zero point that a tensor really has (fact), checked at birth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.granularity import PerChannel, PerGroup, PerTensor
from qonnx_pipe.core.qtype import QTYPES, QType

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EmbeddingGroups:
    """Resolved PEG layout: after `permutation`, consecutive slices of `sizes` dimensions share a scale.

    `permutation[i]` is the original dimension that stands at place i; its length is the embedding width.
    """

    sizes: tuple[int, ...]
    permutation: tuple[int, ...]

    def __post_init__(self) -> None:
        if sum(self.sizes) != len(self.permutation):
            raise ValueError(f"group sizes add up to {sum(self.sizes)}, the embedding has {len(self.permutation)}")
        if sorted(self.permutation) != list(range(len(self.permutation))):
            raise ValueError("permutation does not name every dimension once")

    @property
    def is_identity(self) -> bool:
        """Whether the dimensions keep their order."""
        return self.permutation == tuple(range(len(self.permutation)))

    def group_of_dimension(self) -> npt.NDArray[np.int64]:
        """Group index of every original dimension, shape (d,)."""
        groups = np.empty(len(self.permutation), np.int64)
        groups[list(self.permutation)] = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return groups


@dataclass(frozen=True)
class Windows:
    """Per tensor, where further columns of codes go on beyond the ends of the range (the form `expand`).

    A window is what the codes qmin … qmax reach. Column i shows dimension `dimensions[i]` through the window that lies
    `places[i]` windows above the tensor's own (below, where negative); outside of it the column saturates. No columns
    at all are the same as PerTensor.
    """

    width: int
    dimensions: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """The dimension that each column of codes shows: all in order, then those of the further columns."""
        return (*range(self.width), *self.dimensions)

    def __post_init__(self) -> None:
        if any(not 0 <= dimension < self.width for dimension in self.dimensions):
            raise ValueError(f"a column shows a dimension that is none of {self.width}")
        if len(self.dimensions) != len(self.places):
            raise ValueError(f"{len(self.dimensions)} columns, {len(self.places)} places of windows")
        if 0 in self.places:
            raise ValueError("place 0 is the tensor's own window")


ResolvedGranularity = PerTensor | PerChannel | PerGroup | EmbeddingGroups | Windows


@dataclass(frozen=True, eq=False)
class Encoding:
    """Scale and zero point of one tensor.

    Shapes of `scale` (float32, > 0) and `zero_point` (int32, within the type's codes):
    PerTensor and Windows (), PerChannel (channels,), EmbeddingGroups (K,), PerGroup: the tensor's shape with its axis
    divided by the size.
    """

    dtype: QType
    granularity: ResolvedGranularity
    scale: FloatArray
    zero_point: IntArray

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.asarray(self.zero_point, np.int32)
        if scale.shape != zero_point.shape:
            raise ValueError(f"scale has shape {scale.shape}, zero point {zero_point.shape}")
        if isinstance(self.granularity, PerTensor | Windows) and scale.shape != ():
            raise ValueError(f"a per-tensor scale is 0-d, not of shape {scale.shape}")
        if isinstance(self.granularity, EmbeddingGroups) and scale.shape != (len(self.granularity.sizes),):
            raise ValueError(f"{len(self.granularity.sizes)} groups, scale of shape {scale.shape}")
        if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
            raise ValueError("every scale must be finite and positive")
        if np.any(zero_point < self.dtype.qmin) or np.any(zero_point > self.dtype.qmax):
            raise ValueError(f"zero point outside {self.dtype.name}")
        scale.flags.writeable = zero_point.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)

    def to_json(self) -> dict[str, object]:
        """Plain values for `encodings.json`; float32 scales survive the round trip exactly."""
        layout: dict[str, object]
        match self.granularity:
            case PerTensor():
                layout = {"kind": "per_tensor"}
            case PerChannel(axis):
                layout = {"kind": "per_channel", "axis": axis}
            case PerGroup(axis, size):
                layout = {"kind": "per_group", "axis": axis, "size": size}
            case EmbeddingGroups(sizes, permutation):
                layout = {"kind": "per_embedding_group", "sizes": list(sizes), "permutation": list(permutation)}
            case Windows(width, dimensions, places):
                columns = {"dimensions": list(dimensions), "places": list(places)}
                layout = {"kind": "windows", "width": width, **columns}
        return {
            "dtype": self.dtype.name,
            "granularity": layout,
            "scale": self.scale.astype(np.float64).tolist(),
            "zero_point": self.zero_point.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Encoding:
        """The inverse of `to_json`; ValueError or KeyError on anything that `to_json` does not write."""
        layout = data["granularity"]
        if not isinstance(layout, Mapping):
            raise ValueError("granularity must be a mapping")
        granularity: ResolvedGranularity
        match layout["kind"]:
            case "per_tensor":
                granularity = PerTensor()
            case "per_channel":
                granularity = PerChannel(int(layout["axis"]))
            case "per_group":
                granularity = PerGroup(int(layout["axis"]), int(layout["size"]))
            case "per_embedding_group":
                granularity = EmbeddingGroups(tuple(layout["sizes"]), tuple(layout["permutation"]))
            case "windows":
                granularity = Windows(int(layout["width"]), tuple(layout["dimensions"]), tuple(layout["places"]))
            case kind:
                raise ValueError(f"unknown granularity {kind!r}")
        return cls(
            QTYPES[str(data["dtype"])],
            granularity,
            np.asarray(data["scale"], np.float32),
            np.asarray(data["zero_point"], np.int32),
        )
