"""Accuracy, intervals, paired drops and agreement, against hand-computed figures."""

import random

import pytest

from qonnx_pipe.core.scores import accuracy, accuracy_drop, agreement, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (Wilson score)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_table(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_accuracy_counts_labelled_examples_only():
    metric = accuracy(["a", "b", "a", "a"], ["a", "a", None, "b"], name="accuracy")
    assert (metric.name, metric.value, metric.n) == ("accuracy", pytest.approx(1 / 3), 3)
    assert metric.per_class == {"a": 0.5, "b": 0.0}
    assert metric.interval[0] < metric.value < metric.interval[1]


def test_nothing_labelled_is_no_accuracy():
    assert accuracy(["a"], [None], name="accuracy") is None
    assert accuracy_drop(["a"], ["a"], [None]) is None


def test_the_drop_is_the_difference_of_the_accuracies():
    labels = ["a"] * 10
    reference, candidate = ["a"] * 9 + ["b"], ["a"] * 7 + ["b"] * 3
    drop, _ = accuracy_drop(reference, candidate, labels)
    assert drop.value == pytest.approx(0.2)
    assert drop.interval[0] < 0.2 < drop.interval[1]


def test_equal_predictions_have_no_drop_and_a_narrow_interval():
    predicted, labels = ["a", "b"] * 500, ["a"] * 1000
    drop, _ = accuracy_drop(predicted, predicted, labels)
    assert drop.value == 0.0
    assert drop.interval == pytest.approx((-0.00196, 0.00196), abs=1e-5)  # 1.96 · sqrt(1) / 1002


def test_the_drops_interval_covers_the_true_drop_in_95_of_100_trials():
    rng, covered, trials = random.Random(0), 0, 400
    for _ in range(trials):
        reference, candidate = zip(
            *rng.choices([("a", "a"), ("a", "b"), ("b", "a")], [0.88, 0.08, 0.04], k=300), strict=True
        )
        low, high = accuracy_drop(reference, candidate, ["a"] * 300)[0].interval
        covered += low <= 0.08 - 0.04 <= high
    assert covered / trials == pytest.approx(0.95, abs=0.033)  # three binomial standard deviations of 400 trials


def test_agreement_needs_no_labels():
    assert agreement(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == 0.75


def test_what_is_lost_by_class_the_most_first():
    labels = ["a"] * 4 + ["b"] * 2 + [None]
    reference = ["a", "a", "a", "b", "b", "a", "a"]
    candidate = ["a", "a", "b", "a", "a", "a", "b"]
    whole, classes = accuracy_drop(reference, candidate, labels)
    assert (whole.value, whole.n) == (pytest.approx(1 / 6), 6)
    assert [(one.name, one.drop, one.n) for one in classes] == [("b", 0.5, 2), ("a", 0.0, 4)]
    assert classes[0].interval == accuracy_drop(reference[4:6], candidate[4:6], labels[4:6])[0].interval
