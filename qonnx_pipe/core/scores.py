"""Scores: how well answers fit labels, and what a second model loses; accuracy is the closed form for classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from qonnx_pipe.core.verdict import ClassDrop, Interval, Metric

Z95 = 1.959963984540054
"""97.5 % point of the normal distribution: two-sided 95 % intervals."""

Label = str | None
Answers = Sequence[str]
Labels = Sequence[Label]

Drop = tuple[Metric, tuple[ClassDrop, ...]]
"""What is lost in all, and by class, the class that loses most first."""


@dataclass(frozen=True)
class Measure:
    """A task's metric, from one answer and one label an example; where no example has a label there is None.

    `score(answers, labels)`: value, interval, classes. `drop(reference, candidate, labels)`: what the candidate loses
    on the same examples. `agreement(reference, candidate)`: 1 where both say the same; it needs no labels.
    """

    name: str
    score: Callable[[Answers, Labels], Metric | None]
    drop: Callable[[Answers, Answers, Labels], Drop | None]
    agreement: Callable[[Answers, Answers], float]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); it stays inside [0, 1] and holds for small n."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy(predicted: Sequence[str], labels: Sequence[Label], *, name: str) -> Metric | None:
    """Share of labelled examples that were predicted right, with a Wilson interval and each class's share.

    None when no example has a label.
    """
    pairs = [(p, label) for p, label in zip(predicted, labels, strict=True) if label is not None]
    if not pairs:
        return None
    by_class: dict[str, list[bool]] = {}
    for p, label in pairs:
        by_class.setdefault(label, []).append(p == label)
    right = sum(map(sum, by_class.values()))
    per_class = {label: sum(hits) / len(hits) for label, hits in sorted(by_class.items())}
    return Metric(name, right / len(pairs), "fraction", len(pairs), wilson(right, len(pairs)), per_class)


def accuracy_drop(reference: Sequence[str], candidate: Sequence[str], labels: Sequence[Label]) -> Drop | None:
    """Accuracy of `reference` minus that of `candidate` on the same examples, with a 95 % interval; and by class.

    The interval uses the pairs (Agresti and Min 2005: Wald with half an example added to each of the four cells), so
    examples that both get right or wrong do not widen it. None when no example has a label.
    """
    pairs: dict[str, list[int]] = {}
    for first, second, label in zip(reference, candidate, labels, strict=True):
        if label is not None:
            pairs.setdefault(label, []).append((first == label) - (second == label))
    if not pairs:
        return None
    value, interval, n = _paired([lost for of_class in pairs.values() for lost in of_class])
    classes = (ClassDrop(name, *_paired(of_class)) for name, of_class in sorted(pairs.items()))
    by_loss = tuple(sorted(classes, key=lambda one: -one.drop))
    return Metric("accuracy_drop", value, "fraction", n, interval), by_loss


def _paired(lost: Sequence[int]) -> tuple[float, Interval, int]:
    """Mean, interval and number of examples that lost (1), won (-1) or kept (0) their answer."""
    n, difference, changed = len(lost), sum(lost), sum(map(abs, lost))
    middle = difference / (n + 2)
    half = Z95 * math.sqrt((changed + 1) - difference**2 / (n + 2)) / (n + 2)
    return difference / n, (middle - half, middle + half), n


def agreement(reference: Sequence[str], candidate: Sequence[str]) -> float:
    """Share of examples with the same predicted class, 0 … 1; labels are not needed."""
    return sum(r == c for r, c in zip(reference, candidate, strict=True)) / max(len(reference), 1)


def classes(name: str) -> Measure:
    """The measure of tasks whose answer is one class."""
    return Measure(name, partial(accuracy, name=name), accuracy_drop, agreement)
