"""Batches of a fixed shape hold every example once, in order, and padding that no mask keeps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qonnx_pipe.core.examples import Batch
from qonnx_pipe.runtime.shapes import of_shape

LENGTHS = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=4), max_size=4)


def batches_of(lengths: list[list[int]]) -> list[Batch]:
    """Texts of these lengths, batch by batch; every token has an id of its own."""
    made, start = [], 1
    for group in lengths:
        ids = np.zeros((len(group), max(group)), np.int64)
        for row, length in enumerate(group):
            ids[row, :length] = np.arange(start, start + length)
            start += length
        mask = (ids > 0).astype(np.int64)
        made.append(Batch({"input_ids": ids, "attention_mask": mask}, tuple(map(str, ids[:, 0]))))
    return made


@given(LENGTHS, st.integers(1, 5), st.integers(7, 9))
def test_every_example_is_there_once_and_nothing_else_is_kept(
    lengths: list[list[int]], batch: int, sequence: int
) -> None:
    given_ones = batches_of(lengths)
    shaped = list(of_shape(given_ones, batch, sequence))
    texts = [length for group in lengths for length in group]
    assert [len(one) for one in shaped[:-1]] == [batch] * (len(shaped) - 1)
    assert [label for one in shaped for label in one.labels] == [label for one in given_ones for label in one.labels]
    ids = np.concatenate([one.inputs["input_ids"] for one in shaped]) if shaped else np.zeros((0, sequence))
    mask = np.concatenate([one.inputs["attention_mask"] for one in shaped]) if shaped else np.zeros((0, sequence))
    assert ids.shape == (-(-len(texts) // batch) * batch, sequence)
    np.testing.assert_array_equal(mask.sum(axis=1)[: len(texts)], texts)
    assert mask.sum() == sum(texts)
    np.testing.assert_array_equal(ids[mask.astype(bool)], np.arange(1, sum(texts) + 1))
