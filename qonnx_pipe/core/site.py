"""Site: a tensor where a quantizer can sit, its role in the transformer, its layer, its place in the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Role of a tensor; the paper's letters (Bondarenko et al. 2021, figure 1) stand beside it.

    In a pre-norm network the normalised tensor that enters a layer's attention is the `layer.output` of the layer
    before (`embedding.norm` for the first), so that pre- and post-norm networks have the same 13 sites a layer.
    """

    EMBEDDING_WORD = "embedding.word"
    EMBEDDING_POSITION = "embedding.position"
    EMBEDDING_TYPE = "embedding.type"
    EMBEDDING_SUM = "embedding.sum"  # e
    EMBEDDING_NORM = "embedding.norm"
    EMBEDDING_PROJECTION = "embedding.projection"  # ALBERT, ELECTRA: embedding width → hidden width
    ATTENTION_QUERY = "attention.query"
    ATTENTION_KEY = "attention.key"
    ATTENTION_VALUE = "attention.value"
    ATTENTION_SCORES = "attention.scores"  # s
    ATTENTION_PROBABILITIES = "attention.probabilities"  # p
    ATTENTION_CONTEXT = "attention.context"  # c
    ATTENTION_OUTPUT = "attention.output"  # g
    ATTENTION_SUM = "attention.sum"  # u
    FFN_INPUT = "ffn.input"  # x
    FFN_ACTIVATION = "ffn.activation"
    FFN_OUTPUT = "ffn.output"  # h
    RESIDUAL_SUM = "residual.sum"  # y
    LAYER_OUTPUT = "layer.output"  # z
    POOLER = "pooler"  # P
    HEAD = "head"  # C
    LINEAR_INPUT = "linear.input"  # input of a weight MatMul that no other role covers
    WEIGHT = "weight"


EMBEDDING_TABLES = frozenset({Role.EMBEDDING_WORD, Role.EMBEDDING_POSITION, Role.EMBEDDING_TYPE})

LAYER_ROLES = (
    Role.ATTENTION_QUERY,
    Role.ATTENTION_KEY,
    Role.ATTENTION_VALUE,
    Role.ATTENTION_SCORES,
    Role.ATTENTION_PROBABILITIES,
    Role.ATTENTION_CONTEXT,
    Role.ATTENTION_OUTPUT,
    Role.ATTENTION_SUM,
    Role.FFN_INPUT,
    Role.FFN_ACTIVATION,
    Role.FFN_OUTPUT,
    Role.RESIDUAL_SUM,
    Role.LAYER_OUTPUT,
)
"""The 13 activation sites of one encoder layer, in the order of the data flow."""

ATTENTION_OPERANDS = frozenset(
    {Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_PROBABILITIES, Role.ATTENTION_VALUE}
)
"""What the MatMuls without weights multiply: Q·Kᵀ and P·V."""

STREAM_ROLES = frozenset(
    {
        Role.ATTENTION_OUTPUT,
        Role.ATTENTION_SUM,
        Role.FFN_INPUT,
        Role.FFN_OUTPUT,
        Role.RESIDUAL_SUM,
        Role.LAYER_OUTPUT,
    }
)
"""Activations of one layer that hold hidden dimensions, from the attention's end on: one order can serve them all."""


@dataclass(frozen=True)
class Site:
    """One place for a quantizer.

    `id` is stable across exports of the same architecture: "layer.3/ffn.input", "layer.3/weight[attention.query]".
    `tensor` is the ONNX value: an activation, or the initializer of a weight or table ([in, out] once exported).
    `owner` is, for a weight, the role of what its MatMul computes. `width` is the size of the last axis, 0 if unknown.
    `feeds` names the weight MatMul/Gemm nodes that read an activation (through data movement only), for a weight or
    table the nodes that use it. `pairwise` marks [batch, heads, query, key] tensors, whose last axis is no embedding.
    `heads`: of how many attention heads a weight's outputs are made, 1 for none.
    """

    id: str
    role: Role
    layer: int | None
    tensor: str
    width: int
    feeds: tuple[str, ...] = ()
    owner: Role | None = None
    pairwise: bool = False
    heads: int = 1

    @property
    def is_weight(self) -> bool:
        """Whether the site is a constant: a MatMul weight or an embedding table."""
        return self.role is Role.WEIGHT or self.role in EMBEDDING_TABLES


@dataclass(frozen=True)
class Skipped:
    """Something that the plan wanted and could not have, or that has no recognised role; a value, not a log line."""

    site: str
    reason: str


@dataclass(frozen=True)
class SiteMap:
    """All sites of a model in data-flow order, and what could not be placed."""

    sites: tuple[Site, ...]
    unplaced: tuple[Skipped, ...] = ()
    by_id: dict[str, Site] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {site.id: site for site in self.sites}
        if len(index) != len(self.sites):
            raise ValueError("two sites share an id")
        object.__setattr__(self, "by_id", index)

    @property
    def activations(self) -> tuple[Site, ...]:
        """Sites of activations."""
        return tuple(site for site in self.sites if not site.is_weight)

    @property
    def weights(self) -> tuple[Site, ...]:
        """Sites of MatMul weights and embedding tables."""
        return tuple(site for site in self.sites if site.is_weight)

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        return 1 + max((site.layer for site in self.sites if site.layer is not None), default=-1)
