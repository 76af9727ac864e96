"""Scores: accuracy, its interval, its paired difference and agreement, from predicted and true classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qonnx_pipe.core.verdict import Metric

Z95 = 1.959963984540054
"""97.5 % point of the normal distribution: two-sided 95 % intervals."""

Label = str | None


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


def accuracy_drop(reference: Sequence[str], candidate: Sequence[str], labels: Sequence[Label]) -> Metric | None:
    """Accuracy of `reference` minus that of `candidate` on the same examples, with a 95 % interval.

    The interval uses the pairs (Agresti and Min 2005: Wald with half an example added to each of the four cells), so
    examples that both get right or wrong do not widen it. None when no example has a label.
    """
    triples = [t for t in zip(reference, candidate, labels, strict=True) if t[2] is not None]
    if not triples:
        return None
    n = len(triples)
    lost = sum(r == label != c for r, c, label in triples)
    won = sum(c == label != r for r, c, label in triples)
    middle = (lost - won) / (n + 2)
    half = Z95 * math.sqrt((lost + won + 1) - (lost - won) ** 2 / (n + 2)) / (n + 2)
    return Metric("accuracy_drop", (lost - won) / n, "fraction", n, (middle - half, middle + half))


def agreement(reference: Sequence[str], candidate: Sequence[str]) -> float:
    """Share of examples with the same predicted class, 0 … 1; labels are not needed."""
    return sum(r == c for r, c in zip(reference, candidate, strict=True)) / max(len(reference), 1)
