"""SQuAD's comparison of answers, and the search for the best legal span."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch, Reading
from qonnx_pipe.errors import DataError, ModelError
from qonnx_pipe.tasks.question_answering import f1, normalised

ASK = tasks.find("question-answering")
TEXT = "ab cd ef gh"
SPANS = np.array([[0, 2], [3, 5], [6, 8], [9, 11]])


def label(*answers: str) -> str:
    return json.dumps([[answer, 0] for answer in answers])


def reading(example: int, positions: tuple[int, ...], words: slice = slice(None)) -> Reading:
    return Reading(example, TEXT, np.array(positions), SPANS[words])


def test_normalised_as_squad() -> None:
    assert normalised("The  U.S. dollar, a\tcoin!") == ["us", "dollar", "coin"]
    assert normalised("Another theory") == ["another", "theory"]  # no article inside a word


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("the cat sat", "cat sat down", 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3)),
        ("a b b", "b b b", 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3)),
        ("", "x", 0.0),
        ("the", "a", 1.0),
        ("x", "y", 0.0),
    ],
)
def test_f1(answer: str, right: str, expected: float) -> None:
    assert f1(answer, right) == pytest.approx(expected)


def test_the_best_of_several_right_answers_counts() -> None:
    labels = (label("Denver Broncos", "Broncos"), label("1999"), None)
    metric = ASK.measure.score(("the broncos", "in 1999", "x"), labels)
    assert (metric.name, metric.n) == ("answer_f1", 2)
    assert metric.value == pytest.approx((1 + 2 / 3) / 2)
    assert metric.also == {"exact_match": 0.5}
    assert metric.per_class == pytest.approx({"name": 1.0, "number": 2 / 3})


def test_only_tokens_of_the_text_are_searched() -> None:
    """[CLS] what [SEP] ab cd ef gh: the question has the largest logits, and padding larger ones."""
    start, end = np.full((2, 1, 9), -5.0)
    start[0, 1] = end[0, 1] = start[0, 8] = end[0, 8] = 50.0
    start[0, 4], end[0, 5] = 3.0, 3.0
    batch = Batch({}, (None,), (reading(0, (3, 4, 5, 6)),))
    rows = ASK.scored({"start_logits": start, "end_logits": end}, batch)
    assert rows.shape == (4, 2)
    assert ASK.answered(rows, [batch], (None,), {}) == ("cd ef",)


def test_no_span_ends_before_it_begins_or_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from qonnx_pipe.tasks import question_answering

    rows = np.array([[0, 9], [1, 0], [2, 1.5], [9, 0]], np.float32)
    batch = Batch({}, (None,), (reading(0, (0, 1, 2, 3)),))
    expected = max(((rows[i, 0] + rows[j, 1], i, j) for i in range(4) for j in range(i, 4)), key=lambda one: one[0])
    assert ASK.answered(rows, [batch], (None,), {}) == (TEXT[SPANS[expected[1], 0] : SPANS[expected[2], 1]],)
    wide = np.array([[9, 0], [1, 1], [0, 0], [0, 9]], np.float32)
    assert ASK.answered(wide, [batch], (None,), {}) == (TEXT,)
    monkeypatch.setattr(question_answering, "LONGEST_ANSWER", 3)
    assert ASK.answered(wide, [batch], (None,), {}) == ("ab cd",)  # 9 + 1; the whole text is four words long


def test_the_best_window_of_a_text_answers_for_it_wherever_it_stands() -> None:
    """Sorted by length, windows of one question stand in several batches; the order is that of first appearance."""
    first = Batch({}, (label("ef"), label("ab")), (reading(1, (0, 1), slice(2, 4)), reading(0, (0,), slice(0, 1))))
    second = Batch({}, (label("ef"),), (reading(1, (0, 1), slice(0, 2)),))
    rows = np.array([[1, 1], [0, 0], [0, 0], [0, 0], [2, 2]], np.float32)
    assert ASK.labels([first, second], {}) == (label("ef"), label("ab"))
    assert ASK.answered(rows, [first, second], (None, None), {}) == ("cd", "ab")


def test_what_it_refuses() -> None:
    one = Batch({}, (None,), (reading(0, (0, 1, 2, 3)),))
    with pytest.raises(ModelError, match="no output end_logits"):
        ASK.scored({"start_logits": np.zeros((1, 4))}, one)
    with pytest.raises(DataError, match="no texts to answer from"):
        ASK.scored({"start_logits": np.zeros((1, 4)), "end_logits": np.zeros((1, 4))}, Batch({}, (None,)))
