"""Group sizes add up to the embedding or are refused with their numbers."""

from __future__ import annotations

import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import (
    PerChannel,
    PerEmbedding,
    PerEmbeddingGroup,
    PerGroup,
    PerOutputGroup,
    PerTensor,
)


def test_equal_groups() -> None:
    assert PerEmbeddingGroup(6).sizes(384) == (64,) * 6


def test_uneven_groups() -> None:
    assert PerEmbeddingGroup((368, 16)).sizes(384) == (368, 16)


def test_equal_groups_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="5 equal groups do not divide 384"):
        PerEmbeddingGroup(5).sizes(384)


def test_uneven_groups_must_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 300, not to 384"):
        PerEmbeddingGroup((200, 100)).sizes(384)


@pytest.mark.parametrize("groups", [0, -1, (), (4, 0)])
def test_groups_are_positive(groups: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive groups"):
        PerEmbeddingGroup(groups)


def test_group_size_is_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PerGroup(0, 0)


def test_names() -> None:
    all_of_them = (PerTensor(), PerChannel(1), PerGroup(0, 64), PerEmbedding(), PerEmbeddingGroup(6, "range"))
    all_of_them += (PerOutputGroup(128), PerOutputGroup(128, heads=12))
    assert [str(granularity) for granularity in all_of_them] == [
        "per_tensor",
        "per_channel",
        "per_group(64)",
        "per_embedding",
        "per_embedding_group(6+P)",
        "per_output_group(128)",
        "per_output_group(128 in 12 heads)",
    ]


def test_group_of_dimension_follows_the_permutation() -> None:
    groups = EmbeddingGroups((2, 1), (2, 0, 1))
    assert groups.group_of_dimension().tolist() == [0, 1, 0]
    assert not groups.is_identity
    assert EmbeddingGroups((1, 2), (0, 1, 2)).is_identity


@pytest.mark.parametrize("permutation", [(0, 1), (0, 1, 1), (1, 2, 3)])
def test_permutation_names_every_dimension_once(permutation: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"add up to|does not name every dimension"):
        EmbeddingGroups((2, 1), permutation)


def test_output_groups_are_equal_slices() -> None:
    assert PerOutputGroup(12).sizes(384) == (32,) * 12
    assert PerOutputGroup(1, heads=12).sizes(384) == (384,)
    assert PerOutputGroup(6, heads=12).sizes(384) == (64,) * 6
    assert PerOutputGroup(384, heads=12).sizes(384) == (1,) * 384


def test_output_groups_end_where_a_head_ends() -> None:
    assert PerOutputGroup(128, heads=12).sizes(768) == ((6,) * 10 + (4,)) * 12
    assert PerOutputGroup(128).sizes(768) == (6,) * 128


@pytest.mark.parametrize(
    ("groups", "heads", "message"),
    [
        (100, 1, "100 groups do not divide 384 outputs; 96 or 128 do"),
        (8, 12, "8 groups do not divide 384 outputs in 12 heads; 6 or 4 do"),
        (768, 1, "768 groups do not divide 384 outputs; 384 or 192 do"),
    ],
)
def test_output_groups_that_do_not_divide(groups: int, heads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerOutputGroup(groups, heads).sizes(384)


@pytest.mark.parametrize(("groups", "heads"), [(0, 1), (4, 0)])
def test_output_groups_are_positive(groups: int, heads: int) -> None:
    with pytest.raises(ValueError, match="positive number of groups"):
        PerOutputGroup(groups, heads)
