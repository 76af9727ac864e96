"""Targets and losses of each form of labels, by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from qonnx_pipe.core.examples import Batch, Form, Reading

pytestmark = pytest.mark.export

SPANS = np.array([[0, 2], [3, 5], [6, 8]])


def reading(text: str, positions: list[int], spans: np.ndarray) -> Reading:
    return Reading(0, text, np.array(positions), spans)


def answers(*pairs: tuple[str, int]) -> str:
    return json.dumps(pairs)


@pytest.mark.parametrize(
    ("form", "labels", "readings", "expected"),
    [
        ("class", ("b", "a"), (), [1, 0]),
        ("number", ("2.5", "-1.0"), (), [2.5, -1.0]),
        # [start] ab cd|ef [end]: cd has two tokens, ef was cut off
        (
            "tags",
            ("a b b", "b a a"),
            (reading("ab cd ef", [1, 2], SPANS[:2]),) * 2,
            [[-100, 0, 1, -100], [-100, 1, 0, -100]],
        ),
        (
            "answers",
            (answers(("cd ef", 3), ("ab", 0)), answers(("ef", 6))),
            (reading("ab cd ef", [1, 2, 3], SPANS), reading("ab cd ef", [1, 2], SPANS[:2])),
            [[2, 3], [0, 0]],
        ),
    ],
)
def test_targets(form: Form, labels: tuple[str, ...], readings: tuple[Reading, ...], expected: list) -> None:
    from qonnx_pipe.source.heads import targets

    batch = Batch({"input_ids": np.zeros((2, 4), np.int64)}, labels, readings)
    np.testing.assert_array_equal(targets(batch, form, ("a", "b")), expected)


def entropy(logits: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[target])


def test_losses() -> None:
    import torch

    from qonnx_pipe.source.heads import loss

    def of(form: Form, wanted: object, **outputs: np.ndarray) -> float:
        made = SimpleNamespace(**{name: torch.from_numpy(value) for name, value in outputs.items()})
        return loss(made, torch.tensor(wanted), form).item()

    rng = np.random.default_rng(0)
    two, cube, column = rng.normal(size=(2, 3)), rng.normal(size=(1, 3, 2)), rng.normal(size=(2, 1))
    assert of("class", [2, 0], logits=two) == pytest.approx((entropy(two[0], 2) + entropy(two[1], 0)) / 2)
    expected = (entropy(cube[0, 0], 1) + entropy(cube[0, 2], 0)) / 2
    assert of("tags", [[1, -100, 0]], logits=cube) == pytest.approx(expected)
    assert of("number", [1.0, 2.0], logits=column) == pytest.approx(np.mean((column[:, 0] - [1, 2]) ** 2))
    first, last = rng.normal(size=(1, 4)), rng.normal(size=(1, 4))
    expected = (entropy(first[0], 1) + entropy(last[0], 3)) / 2
    assert of("answers", [[1, 3]], start_logits=first, end_logits=last) == pytest.approx(expected)
