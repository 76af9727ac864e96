"""Attention: how much of each head's attention goes to the separators, where it does nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qonnx_pipe.core.examples import Array, Batch
from qonnx_pipe.stages.analyse.tokens import Tokens, kept, keys_of


@dataclass(frozen=True)
class HeadAttention:
    """One layer: of each head, the mean share of a token's attention that separators and that start tokens get."""

    layer: int
    separator: tuple[float, ...]
    start: tuple[float, ...]


class Heads:
    """One layer's attention, summed over all tokens that ask and are no padding."""

    def __init__(self) -> None:
        self._sums: npt.NDArray[np.float64] | None = None
        self._queries = 0

    def add(self, probabilities: Array, batch: Batch, tokens: Tokens) -> None:
        """One more batch: softmax output [batch, heads, query, key], or with batch and heads as one axis."""
        length = probabilities.shape[-1]
        shares = probabilities.reshape(len(batch), -1, length, length).astype(np.float32, copy=False)
        keys, asks = keys_of(batch, length), kept(batch, length)
        wanted = np.stack([asks & (keys == key) for key in (tokens.separator, tokens.start)], axis=-1)
        given = shares @ wanted[:, None].astype(np.float32)  # [batch, heads, query, 2]
        found = (given * asks[:, None, :, None]).sum(axis=(0, 2), dtype=np.float64).T
        self._sums = found if self._sums is None else self._sums + found
        self._queries += int(asks.sum())

    def result(self, layer: int) -> HeadAttention:
        """Means over everything added."""
        assert self._sums is not None
        separator, start = (tuple(row.tolist()) for row in self._sums / max(self._queries, 1))
        return HeadAttention(layer, separator, start)
