"""YAML texts as values with places; what is wrong with a text is said with its line."""

import pytest

from qonnx_pipe.errors import RecipeError
from qonnx_pipe.recipe.document import Document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("010", 10),
        ("0x1F", 31),
        ("~", None),
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("'1'", "1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = Document.parse(f"a: {text}", "r.yaml").value
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    text = "a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n"
    assert Document.parse(text, "r.yaml").places == {
        (): "r.yaml:1",
        ("a",): "r.yaml:1",
        ("a", "b"): "r.yaml:2",
        ("a", "c"): "r.yaml:3",
        ("a", "c", 0): "r.yaml:4",
        ("a", "c", 1): "r.yaml:5",
        ("a", "c", 1, "d"): "r.yaml:5",
    }


def test_a_duplicate_key_names_both_lines() -> None:
    (problem,) = Document.parse("x:\n  a: 1\n  b: 2\n  a: 3\n", "r.yaml").problems
    assert (problem.where, problem.key) == ("r.yaml:4", "x.a")
    assert "line 2" in problem.what


def test_anchors_and_aliases_are_written_out() -> None:
    document = Document.parse("a: &x {k: [1]}\nb: *x\n", "r.yaml")
    assert document.value == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("a:\n\tb: 1\n", "r.yaml:2", "tab"),
        ("a: [1\nb: 2\n", "r.yaml:2", "from line 1"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2", "document"),
        ("a: *nope\n", "r.yaml:1", "nope"),
        ("a: \x00\n", "r.yaml", "character"),
        ("a: &x {b: *x}\n", "r.yaml:1", "aliases"),
        ("[" * 500, "r.yaml", "deep"),
    ],
)
def test_a_text_that_is_no_yaml(text: str, where: str, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Document.parse(text, "r.yaml")
    (problem,) = caught.value.problems
    assert problem.where == where
    assert word in problem.what


def test_an_alias_bomb_is_refused_in_bounded_work() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(RecipeError, match="grow without bound"):
        Document.parse("\n".join(lines), "r.yaml")


@pytest.mark.parametrize(
    ("text", "word"), [("a: !!python/object:os.system x", "tag"), ("a: !!int abc", "int"), ("[k]: 1", "key")]
)
def test_tags_and_complex_keys_mean_nothing(text: str, word: str) -> None:
    (problem,) = Document.parse(text, "r.yaml").problems
    assert word in problem.what
