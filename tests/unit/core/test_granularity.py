"""Group sizes add up to the embedding or are refused with their numbers."""

from __future__ import annotations

import pytest

from qonnx_pipe.core.encoding import EmbeddingGroups
from qonnx_pipe.core.granularity import PerChannel, PerEmbedding, PerEmbeddingGroup, PerGroup, PerTensor


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
    assert [str(granularity) for granularity in all_of_them] == [
        "per_tensor",
        "per_channel",
        "per_group(64)",
        "per_embedding",
        "per_embedding_group(6+P)",
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
