"""Which examples: every choice goes by an example's own digest, so that one more document moves no other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256

from qonnx_pipe.data.rows import ALL

Shares = tuple[float, float, float]
SHARES: Shares = (0.7, 0.1, 0.2)
"""Train, validation and test, of a source that has no splits of its own."""


def split_of(key: bytes, shares: Shares = SHARES) -> str:
    """Train, validation or test, by the SHA-256 of an example's bytes alone."""
    place = int.from_bytes(sha256(key).digest()[:8], "big") / 2**64
    train, validation, _ = shares
    return "train" if place < train else "validation" if place < round(train + validation, 9) else "test"


def select(
    keys: Sequence[bytes],
    splits: Collection[str],
    samples: int | None,
    seed: int,
    shares: Shares = SHARES,
    *,
    apart: Sequence[bytes] | None = None,
) -> list[int]:
    """Indices of the examples of these splits; with `samples`, at most so many, in an order that the seed shuffles.

    The samples are those whose digests under the seed are smallest: the order of `keys` plays no part. Examples that
    have the same bytes in `apart` (by default each its own) never stand in two splits.
    """
    groups = keys if apart is None else apart
    chosen = [index for index, key in enumerate(groups) if ALL in splits or split_of(key, shares) in splits]
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
