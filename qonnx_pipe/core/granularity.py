"""Granularity: which elements of a tensor share one scale and zero point, as a sum of tiny frozen classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Permute = Literal["none", "range"]
Share = Literal["site", "layer", "model"]
Boundaries = Literal["equal", "error"]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor: scale shape ()."""

    def __str__(self) -> str:
        return "per_tensor"


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index along `axis`: scale shape (shape[axis],).

    Weights are stored [in, out], so the output channels of a MatMul weight are axis 1.
    """

    axis: int

    def __str__(self) -> str:
        return "per_channel" if self.axis else "per_row"


@dataclass(frozen=True)
class PerGroup:
    """One scale for each block of `size` consecutive elements along `axis`; the axis must divide by `size`."""

    axis: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"group size must be at least 1, not {self.size}")

    def __str__(self) -> str:
        return f"per_group({self.size})"


@dataclass(frozen=True)
class PerOutputGroup:
    """Q-BERT's groups (Shen et al. 2019, §3.3): consecutive output neurons of a weight [in, out] share one scale.

    `groups` of out / groups neurons each. Where the outputs are `heads` attention heads, a group ends where its head
    ends: 128 groups of 768 outputs hold 6 neurons, and a head of 64 is cut into ten groups of 6 and one of 4.
    Encoded as PerChannel(1) with equal scales inside a group.
    """

    groups: int
    heads: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1 or self.heads < 1:
            raise ValueError(f"per_output_group needs a positive number of groups, not {self.groups}")

    def sizes(self, width: int) -> tuple[int, ...]:
        """Group sizes for `width` outputs; ValueError, with the nearest counts that do, when they do not divide."""
        if not self._divides(width, self.groups):
            counts = [count for count in range(1, width + 1) if self._divides(width, count)]
            near = [str(count) for count in sorted(counts, key=lambda count: abs(count - self.groups))[:2]]
            within = f" in {self.heads} heads" if self.heads > 1 else ""
            raise ValueError(f"{self.groups} groups do not divide {width} outputs{within}; {' or '.join(near)} do")
        size, head = width // self.groups, width // self.heads
        if size >= head:
            return (size,) * self.groups
        whole, rest = divmod(head, size)
        return ((size,) * whole + ((rest,) if rest else ())) * self.heads

    def _divides(self, width: int, groups: int) -> bool:
        """Whether the groups are equal, and none holds parts of two heads."""
        size, head = width // groups, width // self.heads
        return width % groups == 0 and (size < head or size % head == 0)

    def __str__(self) -> str:
        return f"per_output_group({self.groups}{f' in {self.heads} heads' if self.heads > 1 else ''})"


@dataclass(frozen=True)
class PerEmbedding:
    """One scale for each embedding dimension (the last axis): per-embedding-group with K = d."""

    def __str__(self) -> str:
        return "per_embedding"


@dataclass(frozen=True)
class PerEmbeddingGroup:
    """PEG (Bondarenko et al. 2021, §4): K groups of embedding dimensions, one scale each.

    `groups` is either K, for K equal groups, or the group sizes themselves (uneven groups).
    `permute="range"` sorts the dimensions by range before cutting, so that the outliers share the last group; `share`
    says which sites have one order: each its own, one for a layer (taken from its FFN output, as in the paper), or one
    for the model. `boundaries="error"` cuts K groups where the expected squared error is least, not into equal ones.
    """

    groups: int | tuple[int, ...]
    permute: Permute = "none"
    share: Share = "site"
    boundaries: Boundaries = "equal"

    def __post_init__(self) -> None:
        sizes = (self.groups,) if isinstance(self.groups, int) else self.groups
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError(f"per_embedding_group needs positive groups, not {self.groups}")

    def sizes(self, width: int) -> tuple[int, ...]:
        """Group sizes for an embedding of `width` dimensions; ValueError when they do not add up to it.

        With `boundaries="error"` these are only sizes to start from: K of them, as equal as can be.
        """
        if isinstance(self.groups, int):
            if self.boundaries == "error" and self.groups <= width:
                least, more = divmod(width, self.groups)
                return (least + 1,) * more + (least,) * (self.groups - more)
            if width % self.groups:
                raise ValueError(f"{self.groups} equal groups do not divide {width} dimensions")
            return (width // self.groups,) * self.groups
        if sum(self.groups) != width:
            raise ValueError(f"groups {list(self.groups)} add up to {sum(self.groups)}, not to {width} dimensions")
        return self.groups

    def __str__(self) -> str:
        text = str(self.groups) if isinstance(self.groups, int) else list(self.groups)
        order = "" if self.permute == "none" else "+P" if self.share == "site" else f"+P by {self.share}"
        return f"per_embedding_group({text}{order}{' by error' if self.boundaries == 'error' else ''})"


Granularity = PerTensor | PerChannel | PerGroup | PerOutputGroup | PerEmbedding | PerEmbeddingGroup
