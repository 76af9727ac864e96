"""Several sources become one data set: their columns and labels read alike, doubles left out across them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qonnx_pipe.core.parts import Part
from qonnx_pipe.data import load
from qonnx_pipe.errors import DataError

NAMES = {"0": "negative", "1": "positive"}


@pytest.fixture
def parts(tmp_path: Path) -> list[Part]:
    (tmp_path / "a.json").write_text(
        '[{"text": "Good one.", "class": 1}, {"text": "bad", "class": 0}, {"text": "", "class": null}]'
    )
    (tmp_path / "b.csv").write_text('"-1","bad  ONE \n"\r\n"1","good one. "\r\n')
    signs = {"-1": "negative", "1": "positive"}
    return [
        Part(str(tmp_path / "a.json"), labels=NAMES),
        Part(str(tmp_path / "b.csv"), columns=("label", "text"), labels=signs),
    ]


def test_they_are_put_together_in_their_order(parts: list[Part]) -> None:
    found = load(parts)
    expected = [("Good one.", "positive"), ("bad", "negative"), ("bad  ONE \n", "negative")]
    assert [(one.text, one.label) for one in found.items] == expected
    assert found.duplicates == 1, "the second good one differs in case and white space only"
    assert found.class_names == ("negative", "positive")
    assert any("neither text nor label" in note and "item 3" in note for note in found.notes)
    assert found.source == " + ".join(part.source for part in parts)


def test_doubles_never_stand_in_two_splits(tmp_path: Path) -> None:
    rows = [f"text number {index},1" for index in range(300)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["text,label", *(row.upper() for row in rows)]))
    both = [Part(str(tmp_path / name)) for name in ("a.csv", "b.csv")]
    splits = [load(both, split=name) for name in ("train", "validation", "test")]
    texts = [one.text.casefold() for split in splits for one in split.items]
    assert len(texts) == len(set(texts)) == 300


def test_several_splits_and_other_shares(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"line {index}" for index in range(1000)))
    shares = (0.8, 0.1, 0.1)

    def texts(*splits: str) -> set[str]:
        return {one.text for one in load(str(path), split=splits, shares=shares).items}

    train = texts("train")
    assert 760 < len(train) < 840, "800 expected, standard deviation 13"
    assert texts("dev", "test") == texts("dev") | texts("test") == texts("all") - train
    usual = {one.text for one in load(str(path), split="train").items}
    assert usual < train, "a larger share of train only adds to it"


def test_several_own_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [one.text for one in load(str(tmp_path), split=["validation", "test"]).items] == ["dev", "test"]


def test_parts_are_split_alike(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("more", "own/train", "own/test"):
        (tmp_path / f"{name}.txt").write_text(name)
    mixed = [Part(str(tmp_path / "own")), Part(str(tmp_path / "more.txt"))]
    with pytest.raises(DataError, match="some parts have splits of their own"):
        load(mixed, split="test")


def test_a_label_that_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,2\n")
    with pytest.raises(DataError, match="label '2' has no class name") as failure:
        load([Part(str(tmp_path / "a.csv"), labels=NAMES)])
    assert failure.value.where.endswith("a.csv:2")


def test_an_empty_text_with_a_label_is_still_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n,1\n")
    with pytest.raises(DataError, match="empty text"):
        load([Part(str(tmp_path / "a.csv"))])
