"""Entities and their F1, by hand and as seqeval 1.2.2 counts them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qonnx_pipe import tasks
from qonnx_pipe.core.examples import Batch, Reading
from qonnx_pipe.errors import DataError, ModelError
from qonnx_pipe.tasks.token_classification import entities

TAG = tasks.find("token-classification")
NAMES = {"0": "O", "1": "B-PER", "2": "I-PER"}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", [("PER", 1, 3)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-PER I-PER E-PER I-PER", [("PER", 0, 3), ("PER", 3, 4)]),
        ("S-LOC S-LOC E-LOC", [("LOC", 0, 1), ("LOC", 1, 2), ("LOC", 2, 3)]),
        ("B-PER L-PER U-LOC", [("PER", 0, 2), ("LOC", 2, 3)]),
        ("B-PER  I-PER", [("PER", 0, 1), ("PER", 2, 3)]),  # a word between them was not read
        ("nn nn vb-past O", [("nn", 0, 1), ("nn", 1, 2), ("vb-past", 2, 3)]),
        ("O O", []),
    ],
)
def test_entities(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(entities(tags.split(" "))) == expected


def test_the_same_figures_as_seqeval() -> None:
    """Made with seqeval 1.2.2: `classification_report(gold, found, output_dict=True)` of these very tags."""
    rng = random.Random(7)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold = [[rng.choice(tags) for _ in range(8)] for _ in range(40)]
    found = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in sentence] for sentence in gold]
    metric = TAG.measure.score([" ".join(one) for one in found], [" ".join(one) for one in gold])
    assert metric.value == pytest.approx(0.7945205479452053, rel=1e-12)
    assert metric.per_class == pytest.approx({"LOC": 0.8, "PER": 0.7888888888888889}, rel=1e-12)
    assert metric.interval[0] < metric.value < metric.interval[1]


def test_by_hand() -> None:
    """Three entities wanted, two found, one of them right: F1 = 2 · 1 / (2 + 3); 4 of 6 words have their tag."""
    labels = ("B-PER I-PER O", "B-LOC O B-PER", None)
    metric = TAG.measure.score(("B-PER I-PER O", "O B-LOC O", "O O"), labels)
    assert (metric.name, metric.n) == ("tag_f1", 2)
    assert metric.value == pytest.approx(2 / 5)
    assert metric.per_class == pytest.approx({"LOC": 0.0, "PER": 2 / 3})
    assert metric.also == pytest.approx({"token_accuracy": 3 / 6})


def test_tags_without_bio_give_the_share_of_right_words() -> None:
    labels, found = ("at nn vb", "nn"), ("at vb vb", "nn")
    metric = TAG.measure.score(found, labels)
    assert metric.value == pytest.approx(3 / 4) == metric.also["token_accuracy"]


def test_a_type_that_nobody_wanted_counts_against_the_whole_only() -> None:
    metric = TAG.measure.score(("B-ORG B-PER",), ("O B-PER",))
    assert metric.value == pytest.approx(2 / 3)
    assert metric.per_class == {"PER": 1.0}


def test_logits_are_taken_at_first_tokens_and_words_that_were_cut_off_have_no_tag() -> None:
    """[CLS] jo ##hn runs, and `far` behind the cut."""
    logits = np.zeros((1, 5, 3))
    logits[0, 1, 1] = logits[0, 3, 0] = 1.0
    logits[0, 2, 2] = 9.0  # no first token
    reading = Reading(0, "john runs far", np.array([1, 3]), np.array([[0, 4], [5, 9]]))
    batch = Batch({}, ("1 O o",), (reading,))
    rows = TAG.scored({"logits": logits}, batch)
    np.testing.assert_array_equal(rows, logits[0, [1, 3]])
    labels = TAG.labels([batch], NAMES)
    assert labels == ("B-PER O O",)
    assert TAG.answered(rows, [batch], labels, NAMES) == ("B-PER O ",)
    assert TAG.measure.score(("B-PER O ",), labels).also == {"token_accuracy": pytest.approx(2 / 3)}


def test_what_it_refuses() -> None:
    reading = Reading(0, "a", np.array([0]), np.array([[0, 1]]))
    with pytest.raises(DataError, match="'B-ORG'"):
        TAG.labels([Batch({}, ("B-ORG",), (reading,))], NAMES)
    with pytest.raises(ModelError, match="no output holds logits"):
        TAG.scored({"logits": np.zeros((1, 3))}, Batch({}, (None,), (reading,)))
    with pytest.raises(DataError, match="no words"):
        TAG.scored({"logits": np.zeros((1, 2, 3))}, Batch({}, (None,)))
