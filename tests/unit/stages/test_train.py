"""What the training stage refuses before torch is loaded, and how it counts its steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qonnx_pipe.core.examples import Example, Examples
from qonnx_pipe.data.texts import Texts
from qonnx_pipe.errors import DataError
from qonnx_pipe.recipe.training import Training
from qonnx_pipe.source.checkpoint import Checkpoint
from qonnx_pipe.stages.train import train_stage


def texts(*labels: str | None) -> Texts:
    items = tuple(Example(f"text {index}", label) for index, label in enumerate(labels))
    return Texts(Examples("made up", "", items, labels=labels), 2, 16)


GOOD = texts("a", "b")


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., None]:
    nowhere = Checkpoint(tmp_path / "none", "none", "", "bert", "BertModel")
    return lambda *data: train_stage(
        nowhere, *data, tmp_path, task="text-classification", settings=Training(), workdir=tmp_path
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((texts("a", "a"), GOOD, None), "all texts are of one class, 'a'"),
        ((texts("a", None, "b"), GOOD, None), "1 of 3 texts have no label"),
        ((GOOD, texts("a", "c"), None), "classes that data.train does not have: 'c'"),
        ((GOOD, GOOD, texts("d")), "classes that data.train does not have: 'd'"),
        ((GOOD, texts("a", None), None), "texts without labels cannot judge"),
    ],
)
def test_data_that_cannot_be_learned_from(train: Callable[..., None], data: tuple[object, ...], said: str) -> None:
    with pytest.raises(DataError, match=said) as failure:
        train(*data)
    assert failure.value.exit_code == 3
    assert failure.value.where == "made up"


def test_steps_count_the_last_short_batch() -> None:
    assert texts("a", "b", "a").steps == 2
