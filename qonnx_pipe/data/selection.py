"""Which examples: every choice goes by an example's own digest, so that one more document moves no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from qonnx_pipe.data.rows import ALL

TRAIN, VALIDATION = 0.7, 0.8
"""Where train ends and where validation ends, in the unit interval; the rest is test."""


def split_of(key: bytes) -> str:
    """Train (70 %), validation (10 %) or test (20 %), by the SHA-256 of an example's bytes alone."""
    place = int.from_bytes(sha256(key).digest()[:8], "big") / 2**64
    return "train" if place < TRAIN else "validation" if place < VALIDATION else "test"


def select(keys: Sequence[bytes], split: str, samples: int | None, seed: int) -> list[int]:
    """Indices of the examples of a split; with `samples`, at most so many of them, in an order that the seed shuffles.

    The samples are those whose digests under the seed are smallest: the order of `keys` plays no part.
    """
    chosen = [index for index, key in enumerate(keys) if split in (ALL, split_of(key))]
    if samples is None:
        return chosen
    prefix = f"{seed}:".encode()
    return sorted(chosen, key=lambda index: sha256(prefix + keys[index]).digest())[:samples]


def digest(parts: Iterable[bytes | None]) -> str:
    """SHA-256 (hex) over byte strings, each behind its length; None (no label) differs from an empty one."""
    total = sha256()
    for part in parts:
        total.update(b"-" if part is None else b"%d:" % len(part))
        total.update(part or b"")
    return total.hexdigest()
