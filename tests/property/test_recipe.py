"""Recipes, whatever is in them: places are true, `--set` equals an edit, and no text makes a traceback."""

from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from qonnx_pipe.core.plan import Placement
from qonnx_pipe.errors import RecipeError
from qonnx_pipe.recipe import load
from qonnx_pipe.recipe.document import Document
from tests.unit.recipe.texts import PLAIN

calm = settings(deadline=None, derandomize=True, max_examples=50)  # a busy machine is no failure
words = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True)
trees = st.recursive(
    st.integers(-99, 99),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(words, inner, min_size=1, max_size=3),
    max_leaves=12,
)


def block(tree: object, key: tuple, lines: list[str], places: dict, depth: int) -> None:
    """Write a tree in block style, one key or item a line, noting the line of each: an independent oracle."""
    for part, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
        head = "  " * depth + (f"{part}:" if isinstance(tree, dict) else "-")
        is_leaf = isinstance(inner, int)
        lines.append(f"{head} {inner}" if is_leaf else head)
        # an item's value starts on the line after its dash, and that is where the item is said to stand
        offset = 0 if is_leaf or isinstance(tree, dict) else 1
        places[(*key, part)] = len(lines) + offset
        if not is_leaf:
            block(inner, (*key, part), lines, places, depth + 1)


@calm
@given(st.dictionaries(words, trees, min_size=1, max_size=4))
def test_the_place_of_every_key_is_its_line(tree: dict) -> None:
    lines: list[str] = []
    expected: dict = {}
    block(tree, (), lines, expected, 0)
    document = Document.parse("\n".join(lines), "r")
    assert document.value == tree
    assert {key: int(place[2:]) for key, place in document.places.items() if key} == expected


VALUES = {
    "name": words,
    "model.opset": st.integers(17, 25),
    "model.trust_remote_code": st.booleans(),
    "data.calibration.samples": st.integers(1, 10**6) | st.none(),
    "data.evaluation.split": st.sampled_from(["test", "all"]),
    "quantize.placement": st.sampled_from(get_args(Placement)),
    "quantize.weights.dtype": st.sampled_from(["int8", "int4", "float"]),
    "quantize.activations.granularity": st.just("per_embedding")
    | st.builds(lambda k: {"per_embedding_group": k}, st.integers(1, 12) | st.lists(st.integers(1, 9), min_size=1)),
    "quantize.rules": st.lists(
        st.builds(lambda n: {"match": {"layer": n}, "float": True}, st.integers(-5, 5)), max_size=3
    ),
    "validate.gates.speedup": st.floats(0.1, 10),
    "validate.latency.shapes": st.lists(st.lists(st.integers(1, 512), min_size=2, max_size=2), min_size=1, max_size=3),
}
changes = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: VALUES[key] for key in keys})
)


def flow(value: object) -> str:
    """A value as one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@calm
@given(changes)
def test_set_equals_an_edit_of_the_file(folder: Path, change: dict) -> None:
    plain, edited = folder / "plain.yaml", folder / "edited.yaml"
    plain.write_text(PLAIN, encoding="utf-8")
    yaml = YAML(pure=True)
    tree = yaml.load(PLAIN)
    for key, value in change.items():
        *parents, last = key.split(".")
        mapping = tree
        for parent in parents:
            mapping = mapping.setdefault(parent, {})
        mapping[last] = value
    with edited.open("w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)
    by_set = load(plain, [f"{key}={flow(value)}" for key, value in change.items()])
    assert by_set.model_dump() == load(edited).model_dump()


@calm
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60), st.text(max_size=20))
def test_no_text_makes_a_traceback(folder: Path, text: str, override: str) -> None:
    path = folder / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load(path, [override])
    assert all(problem.where and problem.what for problem in caught.value.problems)


@calm
@given(
    st.sampled_from(["{}", "[]", "'", '"', "&a", "*a", "!t", "|", "%", "- ", "? ", ": ", "#", "\t", "0x", "<<"]),
    st.data(),
)
def test_no_broken_recipe_makes_a_traceback(folder: Path, piece: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PLAIN)))
    path = folder / "broken.yaml"
    path.write_text(PLAIN[:at] + piece + PLAIN[at:], encoding="utf-8")
    with suppress(RecipeError):
        load(path)
