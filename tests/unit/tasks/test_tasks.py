"""Tasks: pooling, nearest neighbours, logits, labels."""

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch
from qonnx_pipe.errors import DataError, ModelError, UsageError

EMBED, CLASSIFY = tasks.find("feature-extraction"), tasks.find("text-classification")
NAMES = {"0": "negative", "1": "positive"}


def batch(mask: list[list[int]]) -> Batch:
    return Batch({"attention_mask": np.array(mask)}, (None,) * len(mask))


def labelled(*labels: str | None) -> Batch:
    return Batch({}, labels)


def test_padding_does_not_touch_an_embedding():
    states = np.array([[[3.0, 0.0], [0.0, 4.0], [99.0, 99.0]]], np.float32)
    rows = EMBED.scored({"last_hidden_state": states}, batch([[1, 1, 0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8]], rtol=1e-6)  # (1.5, 2) over its length 2.5


def test_a_model_that_pools_by_itself_is_normalised_only():
    rows = EMBED.scored({"embedding": np.array([[3.0, 4.0], [0.0, 0.0]])}, batch([[1], [1]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    with pytest.raises(ModelError, match="no output holds embeddings"):
        EMBED.scored({"loss": np.array(1.0)}, batch([[1]]))


def test_the_nearest_other_example_gives_the_class():
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    assert EMBED.answered(rows, (), ("a", "b", "c", "d"), {}) == ("b", "a", "d", "c")
    assert EMBED.answered(rows, (), (None,) * 4, {}) == ("1", "0", "3", "2")
    assert EMBED.answered(rows, (), ("a", None, "c", "d"), {}) == ("d", "a", "d", "c")


def test_blocks_do_not_change_the_neighbours(monkeypatch):
    from qonnx_pipe.tasks import feature_extraction

    rows = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)
    labels = tuple(str(i) for i in range(23))
    expected = []
    for i in range(23):
        others = [j for j in range(23) if j != i]
        expected.append(str(max(others, key=lambda j: float(rows[i] @ rows[j]))))
    monkeypatch.setattr(feature_extraction, "BLOCK", 4)
    assert list(EMBED.answered(rows, (), labels, {})) == expected


def test_the_largest_logit_names_the_class():
    logits = np.array([[0.1, 0.2], [3.0, -1.0]], np.float32)
    rows = CLASSIFY.scored({"logits": logits}, batch([[1], [1]]))
    assert CLASSIFY.answered(rows, (), (None, None), NAMES) == ("positive", "negative")
    assert CLASSIFY.answered(rows, (), (None, None), {}) == ("1", "0")
    with pytest.raises(ModelError, match="no output holds logits"):
        CLASSIFY.scored({"last_hidden_state": np.zeros((2, 3, 4))}, batch([[1], [1]]))


@pytest.mark.parametrize("given", [("positive", "negative", None), ("Positive", "NEGATIVE", None), ("1", "0", None)])
def test_labels_may_be_names_or_ids(given):
    assert CLASSIFY.labels([labelled(*given)], NAMES) == ("positive", "negative", None)


def test_numeric_names_are_names():
    assert CLASSIFY.labels([labelled("0")], {"0": "1", "1": "0"}) == ("0",)


def test_labels_that_the_head_does_not_have_are_named_with_the_heads():
    with pytest.raises(DataError, match="'neutral', 'sport'") as caught:
        CLASSIFY.labels([labelled("sport", "positive", "neutral")], NAMES)
    assert "'negative', 'positive'" in caught.value.fix


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(UsageError, match="'translation' cannot be validated") as caught:
        tasks.find("translation")
    assert "feature-extraction" in caught.value.fix
