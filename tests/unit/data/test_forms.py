"""Words with tags, numbers, questions and pairs: what users write becomes labels, or an error that names the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qonnx_pipe.core.examples import Form
from qonnx_pipe.core.parts import Part
from qonnx_pipe.data import load
from qonnx_pipe.errors import DataError


def written(folder: Path, name: str, text: str | object) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return str(path)


def pairs(source: str, form: Form, **more: str) -> list[tuple[str, str | None]]:
    return [(item.text, item.label) for item in load(source, form=form, **more).items]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", "-DOCSTART- -X- O\n\nJo NNP B-PER\nruns VBZ O\n\nFar RB O\n"),
        ("a.txt", "Jo B-PER\nruns O\n\n\nFar O"),
        ("a.bio", "Jo\tB-PER\r\nruns\tO\r\n\r\nFar\tO\r\n"),
        ("brown", "\n\tJo/B-PER runs/O\n\nFar/O\n"),
        ("folder/cj01", "Jo/B-PER runs/O\nFar/O"),
        ("a.jsonl", '{"tokens": ["Jo", "runs"], "ner_tags": ["B-PER", "O"]}\n{"tokens": ["Far"], "ner_tags": ["O"]}'),
        ("a.json", [{"words": ["Jo", "runs"], "tags": ["B-PER", "O"]}, {"words": ["Far"], "tags": ["O"]}]),
        ("a.csv", "sentence,labels\nJo  runs,B-PER O\nFar,O\n"),
    ],
)
def test_words_with_tags(tmp_path: Path, name: str, text: object) -> None:
    source = written(tmp_path, name, text)
    if name.startswith("folder"):
        written(tmp_path, "folder/README", "A CORPUS")
        source = str(tmp_path / "folder")
    assert pairs(source, "tags") == [("Jo runs", "B-PER O"), ("Far", "O")]
    assert load(source, form="tags").class_names == ("B-PER", "O")


def test_tags_may_be_numbers_and_absent(tmp_path: Path) -> None:
    source = written(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "tags": [0, 2]}\n{"tokens": ["c"], "tags": null}')
    assert pairs(source, "tags") == [("a b", "0 2"), ("c", None)]


@pytest.mark.parametrize(
    ("name", "text", "said", "place"),
    [
        ("a.conll", "a X\nb\n", "1 columns, not 2", "a.conll:2"),
        ("a.conll", "a\nb\n", "1 columns, not 2", "a.conll:1"),
        ("a.txt", "a sentence of words\nand another\n", "2 columns, not 4", "a.txt:2"),
        ("brown", "a/x b\n", "no word/tag", "brown:1"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["X"]}', "2 words and 1 tags", "a.jsonl:1"),
        ("a.csv", "text,tags\na b c,X Y\n", "3 words and 2 tags", "a.csv:2"),
        ("a.jsonl", '{"tokens": ["a b"], "tags": ["X"]}', "'a b' is empty or has white space", "a.jsonl:1"),
        ("a.jsonl", '{"tokens": [""], "tags": ["X"]}', "'' is empty", "a.jsonl:1"),
        ("a.jsonl", '{"tokens": [1], "tags": ["X"]}', "no list of words", "a.jsonl:1"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [["X"]]}', "no list of tags", "a.jsonl:1"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["X Y"]}', "a tag is empty or has white space", "a.jsonl:1"),
    ],
)
def test_tags_that_do_not_fit_their_words(tmp_path: Path, name: str, text: str, said: str, place: str) -> None:
    with pytest.raises(DataError, match=said) as failure:
        load(written(tmp_path, name, text), form="tags")
    assert failure.value.where.endswith(place)
    assert failure.value.fix


def test_numbers(tmp_path: Path) -> None:
    source = written(tmp_path, "a.jsonl", '{"text": "a", "score": 3}\n{"text": "b", "score": "-0.5"}\n{"text": "c"}')
    assert pairs(source, "number") == [("a", "3.0"), ("b", "-0.5"), ("c", None)]
    assert load(source, form="number").class_names == ()


@pytest.mark.parametrize("value", ['"good"', "NaN", '"nan"', "Infinity", "true", "[1]", "1e999"])
def test_labels_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    source = written(tmp_path, "a.jsonl", f'{{"text": "a", "label": 1}}\n{{"text": "b", "label": {value}}}')
    with pytest.raises(DataError, match="is no finite number") as failure:
        load(source, form="number")
    assert failure.value.where.endswith("a.jsonl:2")


def test_pairs_of_texts(tmp_path: Path) -> None:
    source = written(tmp_path, "a.csv", "sentence1,sentence2,label\na,b,1\na,c,2\na,b,1\n")
    found = load(source, form="number")
    assert [(item.text, item.pair, item.label) for item in found.items] == [("a", "b", "1.0"), ("a", "c", "2.0")]
    assert found.duplicates == 1
    assert "second text from column 'sentence2'" in found.notes
    other = written(tmp_path, "b.csv", "x,y,label\na,b,1\n")
    assert load(other, text_column="x", pair_column="y").items[0].pair == "b"
    with pytest.raises(DataError, match="no second text column 'z'"):
        load(other, text_column="x", pair_column="z")
    assert load(source, form="number").sha256 != load(source, form="number", pair_column="sentence1").sha256


TEXT = "The cat sat on the mat. The cat slept."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("mat", [["mat", 19]]),
        (["mat", "cat"], [["mat", 19], ["cat", 4]]),
        ({"text": ["cat", "cat"], "answer_start": [28, 28]}, [["cat", 28]]),
        ([{"text": "cat", "answer_start": 28}, {"text": "mat", "answer_start": 19}], [["cat", 28], ["mat", 19]]),
    ],
)
def test_answers(tmp_path: Path, answers: object, expected: object) -> None:
    source = written(tmp_path, "a.json", [{"question": "what?", "context": TEXT, "answers": answers}])
    (item,) = load(source, form="answers").items
    assert (item.text, item.pair, json.loads(item.label)) == ("what?", TEXT, expected)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ("dog", "the answer 'dog' does not stand in the text"),
        ({"text": ["cat"], "answer_start": [3]}, "does not stand in the text at 3"),
        ({"text": ["cat"], "answer_start": ["4"]}, "does not stand in the text at 4"),
        ({"text": ["cat", "mat"], "answer_start": [4]}, "is no answer"),
        ("  ", "is no answer"),
        (7, "7 is no answer"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answers: object, said: str) -> None:
    source = written(tmp_path, "a.json", [{"question": "what?", "context": TEXT, "answers": answers}])
    with pytest.raises(DataError, match=said) as failure:
        load(source, form="answers")
    assert failure.value.where.endswith("item 1")


def test_a_file_like_squad(tmp_path: Path) -> None:
    asked = [
        {"id": "q1", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]},
        {"id": "q2", "question": "why?", "answers": [], "is_impossible": True},
    ]
    source = written(tmp_path, "a.json", {"version": "1", "data": [{"paragraphs": [{"context": TEXT, "qas": asked}]}]})
    found = load(source, form="answers")
    assert [item.text for item in found.items] == ["who?"]
    assert any(note.startswith("left out, a question without an answer: ") for note in found.notes)
    assert any(note.endswith("a.json: question q2") for note in found.notes)
    table = [
        {"question": "a", "context": TEXT, "answers": {"text": [], "answer_start": []}} | more
        for more in ({}, {"question": "b", "answers": "cat"})
    ]
    assert [item.text for item in load(written(tmp_path, "c.json", table), form="answers").items] == ["b"]
    assert load(source).items[0].pair == TEXT  # texts to calibrate with
    broken = written(tmp_path, "b.json", {"data": [{"paragraphs": [{"qas": asked}]}]})
    with pytest.raises(DataError, match="not in the form of SQuAD"):
        load(broken, form="answers")


def test_questions_about_one_text_stand_in_one_split(tmp_path: Path) -> None:
    rows = [
        {"question": f"what is {n}?", "context": f"text {text} says {n}", "answers": f"text {text}"}
        for text in range(40)
        for n in range(3)
    ]
    for row in rows:
        row["context"] = row["context"].rpartition(" says")[0]
    source = written(tmp_path, "a.json", rows)
    split = {name: {item.pair for item in load(source, split=name, form="answers").items} for name in ("train", "test")}
    assert split["train"]
    assert split["test"]
    assert not split["train"] & split["test"]


def test_names_of_tags_by_pattern(tmp_path: Path) -> None:
    source = written(tmp_path, "brown", "Jo/np runs/vbz fast/rb */*\n")
    names = {"vb*": "verb", "np": "name", "[*]*": "not", "*": "other"}
    assert load([Part(source, labels=names)], form="tags").items[0].label == "name verb other other"
    del names["*"]
    with pytest.raises(DataError, match="'rb' has no class name") as failure:
        load([Part(source, labels=names)], form="tags")
    assert failure.value.where.endswith("brown:1")
    with pytest.raises(DataError, match="has white space"):
        load([Part(source, labels={"*": "two words"})], form="tags")


def test_a_table_in_a_txt_file_whose_columns_have_names(tmp_path: Path) -> None:
    source = written(tmp_path, "a.txt", '1\t-2.5\tIt\'s "bad".\r\n2\t3\tGood.\n')
    found = load([Part(source, columns=("id", "label", "text"))], form="number")
    assert [(item.text, item.label) for item in found.items] == [('It\'s "bad".', "-2.5"), ("Good.", "3.0")]


def test_questions_are_made_from_texts_the_same_each_time(tmp_path: Path) -> None:
    text = "Profits at Time Warner rose to $1.13bn in May, from $639m. The firm owns Google."
    source = "cloze:" + written(tmp_path, "texts/1.txt", text).rpartition("/")[0]
    (item,) = load(source, form="answers").items
    ((answer, start),) = json.loads(item.label)
    assert item.pair == text
    assert text[start : start + len(answer)] == answer
    assert answer not in item.text
    assert item.text.endswith("?")
    assert load(source, form="answers") == load(source, form="answers")
    assert any("1 questions were made from 1 texts" in note for note in load(source, form="answers").notes)
