"""Sampled tokens: decided by an example's number and its own tokens, never by its batch."""

from __future__ import annotations

import numpy as np
import pytest

from qonnx_pipe.core.sampling import sampled_examples, sampled_tokens, share


@pytest.mark.parametrize(("examples", "wanted"), [(1, 1024), (7, 3), (7, 7), (24, 100), (256, 1024), (3, 0)])
def test_shares_are_even_and_add_up(examples: int, wanted: int) -> None:
    shares = [share(example, examples, wanted) for example in range(examples)]
    assert sum(shares) == wanted
    assert max(shares) - min(shares) <= 1


def masks(lengths: list[int], width: int, *, left: bool = False) -> np.ndarray:
    own = np.arange(width) < np.array(lengths)[:, None]
    return own[:, ::-1] if left else own


def test_each_example_gives_its_share_of_different_tokens_of_its_own() -> None:
    lengths = [9, 2, 5, 0]
    own = masks(lengths, 12)
    places = sampled_tokens(own, 0, 4, 16)
    assert [int((places[:, 0] == row).sum()) for row in range(4)] == [4, 2, 4, 0]
    assert len({tuple(place) for place in places.tolist()}) == len(places)
    assert own[tuple(places.T)].all()
    assert places.tolist() == sorted(places.tolist())


def test_neither_batches_nor_padding_change_the_choice() -> None:
    lengths = [9, 3, 5, 7, 1, 8]
    whole = sampled_tokens(masks(lengths, 9), 0, 6, 20)
    parts = [np.add(sampled_tokens(masks(lengths[at : at + 2], 11), at, 6, 20), [at, 0]) for at in (0, 2, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    left = sampled_tokens(masks(lengths, 15, left=True), 0, 6, 20)
    np.testing.assert_array_equal(left - [[0, 15 - lengths[row]] for row, _ in left], whole)


def test_the_choice_is_numpys_from_the_examples_number() -> None:
    places = sampled_tokens(np.ones((1, 50), bool), 17, 32, 96)
    expected = np.random.default_rng([0, 17]).choice(50, 3, replace=False)
    assert places.tolist() == [[0, position] for position in sorted(expected.tolist())]


def test_rows_where_there_are_fewer_samples_than_examples() -> None:
    rows = [first + row for first in (0, 4, 8) for (row,) in sampled_examples(4, first, 12, 3).tolist()]
    assert rows == [example for example in range(12) if share(example, 12, 3)]
    assert len(rows) == 3
    assert sampled_examples(3, 0, 3, 1024).tolist() == [[0], [1], [2]]
    assert sampled_examples(2, 0, 12, 3).shape == (0, 1)
