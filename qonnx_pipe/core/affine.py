"""Affine: what a fold makes of a tensor, dimension by dimension: x' = (x − shift) / scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qonnx_pipe.core.encoding import FloatArray


@dataclass(frozen=True, eq=False)
class Affine:
    """Scale (> 0) and shift of each embedding dimension, both float32 of shape (d,), checked at birth."""

    scale: FloatArray
    shift: FloatArray

    def __post_init__(self) -> None:
        scale, shift = np.asarray(self.scale, np.float32), np.asarray(self.shift, np.float32)
        if scale.ndim != 1 or scale.shape != shift.shape:
            raise ValueError(f"scale has shape {scale.shape}, shift {shift.shape}")
        if not (np.all(np.isfinite(scale)) and np.all(scale > 0) and np.all(np.isfinite(shift))):
            raise ValueError("every scale must be finite and positive, every shift finite")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "shift", shift)

    @classmethod
    def scaling(cls, scale: FloatArray) -> Affine:
        """Without shift."""
        return cls(scale, np.zeros_like(scale))

    @classmethod
    def shifting(cls, shift: FloatArray) -> Affine:
        """Without scale."""
        return cls(np.ones_like(shift), shift)

    @property
    def scales(self) -> bool:
        """Whether any dimension is scaled."""
        return bool(np.any(self.scale != 1))

    @property
    def shifts(self) -> bool:
        """Whether any dimension is moved."""
        return bool(np.any(self.shift))

    def __call__(self, values: FloatArray) -> FloatArray:
        """Values [..., d] behind it."""
        moved: FloatArray = (values - self.shift) / self.scale
        return moved

    def then(self, other: Affine) -> Affine:
        """Both, this one first: ((x − z₁)/s₁ − z₂)/s₂ = (x − (z₁ + s₁z₂)) / (s₁s₂)."""
        return Affine(self.scale * other.scale, self.shift + self.scale * other.shift)
