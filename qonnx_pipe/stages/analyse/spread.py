"""Spread: what one site's values look like, dimension by dimension, gathered text by text in constant memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.encoding import FloatArray
from qonnx_pipe.stages.analyse.tokens import Ids

SIGMAS = 6.0
"""How many standard deviations from a text's mean make a value an outlier (Bondarenko et al. 2021, figure 2)."""

Counts = npt.NDArray[np.int64]


@dataclass(eq=False)
class Spread:
    """Of every dimension: extremes, outlying values, texts that hold one; and how often which token carries one.

    A value is an outlier when it lies more than SIGMAS standard deviations from the mean of its text's own tensor, so
    that neither the order nor the batches of the texts matter. `carriers` counts (dimension, token); it is bounded by
    the vocabulary, not by the texts.
    """

    minimum: FloatArray
    maximum: FloatArray
    values: Counts
    texts: Counts
    seen: int = 0
    carriers: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def empty(cls, width: int) -> Spread:
        """Before any text."""
        low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        return cls(low, high, np.zeros(width, np.int64), np.zeros(width, np.int64))

    def add(self, values: FloatArray, keys: Ids) -> None:
        """One more text: finite values [tokens, d], and the key of each token."""
        low, high = values.min(axis=0), values.max(axis=0)
        mean, flat = float(values.mean()), values.ravel()
        deviation = max(float(flat @ flat) / flat.size - mean**2, 0.0) ** 0.5
        self.seen += 1
        np.minimum(self.minimum, low, out=self.minimum)
        np.maximum(self.maximum, high, out=self.maximum)
        reach = SIGMAS * deviation
        dimensions = np.flatnonzero((high > mean + reach) | (low < mean - reach))
        if not dimensions.size:
            return
        tokens, columns = np.nonzero(np.abs(values[:, dimensions] - mean) > reach)
        found = np.bincount(dimensions[columns], minlength=len(low))
        self.values += found
        self.texts += found > 0
        self.carriers.update(zip(dimensions[columns].tolist(), keys[tokens].tolist(), strict=True))

    @property
    def ranges(self) -> FloatArray:
        """Largest minus smallest value of each dimension."""
        return self.maximum - self.minimum

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Range of each dimension over the median dimension's (over the mean where the median is 0)."""
        widths = self.maximum.astype(np.float64) - self.minimum
        unit = float(np.median(widths)) or float(widths.mean()) or 1.0
        return np.asarray(widths / unit)
