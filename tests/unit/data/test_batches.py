"""Tokens, padding and masks of batches, checked against ids that the test's own word list fixes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from qonnx_pipe.core.examples import Example, Examples
from qonnx_pipe.data import batches
from qonnx_pipe.errors import DataError, ModelError

PAD, UNK, CLS, SEP, A, B = range(6)
WORDS = {"[PAD]": PAD, "[UNK]": UNK, "[CLS]": CLS, "[SEP]": SEP, "a": A, "b": B}
ALL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def make_tokenizer(folder: Path, *, template: bool = True) -> Path:
    rule = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    rule.normalizer = normalizers.BertNormalizer()
    rule.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        rule.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
    rule.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    return folder


def of(*texts: str) -> Examples:
    items = tuple(Example(text, f"label of {text}") for text in texts)
    return Examples("here", "0", items, labels=tuple(item.label for item in items))


def ids(found: list) -> list[list[list[int]]]:
    return [batch.inputs["input_ids"].tolist() for batch in found]


def test_pads_to_the_longest_of_each_batch(tmp_path: Path) -> None:
    rule = make_tokenizer(tmp_path)
    found = batches(of("a", "a b", "b"), rule, ALL_INPUTS, batch_size=2, max_length=8)
    assert ids(found) == [[[CLS, A, SEP, PAD], [CLS, A, B, SEP]], [[CLS, B, SEP]]]
    assert found[0].inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert found[0].inputs["token_type_ids"].tolist() == [[0] * 4] * 2
    assert {array.dtype for batch in found for array in batch.inputs.values()} == {np.dtype(np.int64)}
    assert [batch.labels for batch in found] == [("label of a", "label of a b"), ("label of b",)]


def test_only_the_models_inputs_in_its_order(tmp_path: Path) -> None:
    found = batches(of("a"), make_tokenizer(tmp_path), ("attention_mask", "input_ids"), batch_size=1, max_length=8)
    assert list(found[0].inputs) == ["attention_mask", "input_ids"]


def test_cuts_to_max_length_and_keeps_the_end_token(tmp_path: Path) -> None:
    rule = make_tokenizer(tmp_path)
    assert ids(batches(of("a b a b a"), rule, ALL_INPUTS, batch_size=1, max_length=4)) == [[[CLS, A, B, SEP]]]


def test_pad_to_fixes_the_length(tmp_path: Path) -> None:
    found = batches(of("a", "a b a b a"), make_tokenizer(tmp_path), ALL_INPUTS, batch_size=1, max_length=99, pad_to=4)
    assert ids(found) == [[[CLS, A, SEP, PAD]], [[CLS, A, B, SEP]]]


def test_sort_puts_equal_lengths_together(tmp_path: Path) -> None:
    found = batches(of("a b a", "a", "b"), make_tokenizer(tmp_path), ALL_INPUTS, batch_size=2, max_length=9, sort=True)
    assert ids(found) == [[[CLS, A, SEP], [CLS, B, SEP]], [[CLS, A, B, A, SEP]]]
    assert found[1].labels == ("label of a b a",)


def test_padding_of_tokenizer_json_wins_and_its_fixed_length_does_not(tmp_path: Path) -> None:
    rule = Tokenizer.from_file(str(make_tokenizer(tmp_path) / "tokenizer.json"))
    rule.enable_padding(direction="left", pad_id=UNK, pad_type_id=1, pad_token="[UNK]", length=16)
    rule.enable_truncation(3)
    rule.save(str(tmp_path / "tokenizer.json"))
    found = batches(of("a", "a b"), tmp_path / "tokenizer.json", ALL_INPUTS, batch_size=2, max_length=8)
    assert ids(found) == [[[UNK, CLS, A, SEP], [CLS, A, B, SEP]]]
    assert found[0].inputs["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert found[0].inputs["token_type_ids"].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("files", "token"),
    [
        ({"special_tokens_map.json": {"pad_token": "[SEP]"}}, SEP),
        ({"tokenizer_config.json": {"pad_token": {"content": "b"}}}, B),
        ({"config.json": {"pad_token_id": 3, "eos_token_id": 4}}, 3),
        ({"tokenizer_config.json": {"eos_token": "a"}, "config.json": {"pad_token_id": None}}, A),
        ({"config.json": {"eos_token_id": 5}}, 5),
    ],
)
def test_pad_token_from_the_files_beside(tmp_path: Path, files: dict[str, object], token: int) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = batches(of("a b", "a"), tmp_path, ALL_INPUTS, batch_size=2, max_length=8)
    assert found[0].inputs["input_ids"][1, -1] == token


def test_left_padding_of_tokenizer_config(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left"}))
    assert ids(batches(of("a b", "a"), tmp_path, ALL_INPUTS, batch_size=2, max_length=8))[0][1] == [PAD, CLS, A, SEP]


def test_arrays_pass_by_name(tmp_path: Path) -> None:
    pixels = np.arange(10, dtype=np.float32).reshape(5, 2)
    examples = Examples("a.npz", "0", arrays={"pixels": pixels, "more": pixels}, labels=tuple("abcde"))
    found = batches(examples, tmp_path / "none", ("pixels",), batch_size=2, max_length=1)
    assert [list(batch.inputs) for batch in found] == [["pixels"]] * 3
    np.testing.assert_array_equal(np.concatenate([batch.inputs["pixels"] for batch in found]), pixels)
    assert [batch.labels for batch in found] == [("a", "b"), ("c", "d"), ("e",)]


def test_arrays_that_the_model_wants_are_missing(tmp_path: Path) -> None:
    examples = Examples("a.npz", "0", arrays={"pixels": np.zeros((1, 2))}, labels=(None,))
    with pytest.raises(DataError, match="input pixel_values") as caught:
        batches(examples, tmp_path, ("pixel_values",), batch_size=2, max_length=1)
    assert caught.value.fix == "the file holds pixels"


def test_text_for_a_model_of_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model wants pixel_values"):
        batches(of("a"), make_tokenizer(tmp_path), ("pixel_values",), batch_size=1, max_length=8)


def test_text_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no token in the text '\\u200b'"):
        batches(of("a", "\u200b"), make_tokenizer(tmp_path), ALL_INPUTS, batch_size=2, max_length=8)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_no_room_beside_special_tokens(tmp_path: Path, length: int) -> None:
    with pytest.raises(DataError, match="no room") as caught:
        batches(of("a"), make_tokenizer(tmp_path), ALL_INPUTS, batch_size=1, max_length=length)
    assert caught.value.fix == "allow at least 3"


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}'])
def test_missing_or_damaged_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        batches(of("a"), tmp_path, ALL_INPUTS, batch_size=1, max_length=8)
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    assert caught.value.fix


def test_no_padding_token(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(ModelError, match="names no padding token"):
        batches(of("a"), tmp_path, ALL_INPUTS, batch_size=1, max_length=8)


def test_damaged_file_beside(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        batches(of("a"), tmp_path, ALL_INPUTS, batch_size=1, max_length=8)


def test_pairs_are_cut_together(tmp_path: Path) -> None:
    rule = Tokenizer.from_file(str(make_tokenizer(tmp_path) / "tokenizer.json"))
    rule.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    rule.save(str(tmp_path / "tokenizer.json"))
    examples = Examples("here", "0", (Example("a a", "x", "b b b b"),), labels=("x",))
    (found,) = batches(examples, tmp_path, ALL_INPUTS, batch_size=1, max_length=8)
    assert found.inputs["input_ids"].tolist() == [[CLS, A, A, SEP, B, B, B, SEP]]
    assert found.inputs["token_type_ids"].tolist() == [[0] * 4 + [1] * 4]
    asked = replace(examples, form="answers")
    windows = batches(asked, tmp_path, ALL_INPUTS, batch_size=9, max_length=8)[0]
    assert windows.inputs["input_ids"].tolist() == [[CLS, A, A, SEP, B, B, B, SEP], [CLS, A, A, SEP, B, B, SEP, PAD]]
    assert [reading.spans[:, 0].tolist() for reading in windows.readings] == [[0, 2, 4], [4, 6]]
    assert [(reading.example, reading.text) for reading in windows.readings] == [(0, "b b b b")] * 2
    assert [reading.positions.tolist() for reading in windows.readings] == [[4, 5, 6], [4, 5]]
    assert windows.labels == ("x", "x")
    with pytest.raises(DataError, match="leaves no room"):
        batches(asked, tmp_path, ALL_INPUTS, batch_size=9, max_length=5)


@pytest.mark.parametrize("left", [False, True])
def test_tags_are_about_the_first_token_of_each_word(tmp_path: Path, left: bool) -> None:
    rule = Tokenizer.from_file(str(make_tokenizer(tmp_path) / "tokenizer.json"))
    rule.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("a", "isolated")])
    rule.enable_padding(direction="left" if left else "right", pad_id=PAD)
    rule.save(str(tmp_path / "tokenizer.json"))
    texts = ("ba \x00 ab b", "X Y Z W"), ("a", "X")  # the second word is dropped by the normalizer
    items = tuple(Example(*text) for text in texts)
    examples = Examples("here", "0", items, labels=("X Y Z W", "X"), form="tags")
    (found,) = batches(examples, tmp_path, ALL_INPUTS, batch_size=2, max_length=9)
    assert found.inputs["input_ids"].tolist()[0] == [CLS, B, A, A, B, B, SEP]
    shift = 4 if left else 0
    assert [one.positions.tolist() for one in found.readings] == [[1, 3, 5], [1 + shift]]
    assert [one.text[begin:end] for one in found.readings for begin, end in one.spans] == ["ba", "ab", "b", "a"]
    (cut,) = batches(examples, tmp_path, ALL_INPUTS, batch_size=2, max_length=5)
    assert [one.positions.tolist() for one in cut.readings] == [[1, 3], [1 + (2 if left else 0)]]


def test_labels_about_classes_have_no_readings(tmp_path: Path) -> None:
    assert batches(of("a"), make_tokenizer(tmp_path), ALL_INPUTS, batch_size=1, max_length=8)[0].readings == ()
