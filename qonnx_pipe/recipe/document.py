"""Document: a YAML text as plain values, with the place of every key; whatever is wrong with the text is a Problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from qonnx_pipe.errors import Problem, RecipeError
from qonnx_pipe.recipe.origin import Key, dotted

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

LARGEST = 10_000  # nodes, aliases expanded: a recipe has hundreds, an alias bomb billions
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}
_TEXT = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "merge", "value")}


@dataclass
class Document:
    """Values of one YAML text, the place of each ("recipe.yaml:12"), and what is wrong with the text itself."""

    name: str
    value: Value = None
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str, name: str) -> Document:
        """Read YAML 1.2; RecipeError for a text that is no YAML."""
        document = cls(name)
        yaml = YAML(typ="safe", pure=True)
        try:
            root = yaml.compose(text)
            if root is not None:
                document.value = _Reader(document, yaml).value(root, ())
        except (YAMLError, ValueError, RecursionError) as failure:
            raise RecipeError([_syntax(failure, name)]) from None
        return document

    def put(self, key: Key, other: Document) -> None:
        """Set the value at `key` to another document's; RecipeError when the key's way leads through a scalar."""
        parent = self._parent(key, other.name)
        match parent, key[-1]:
            case dict(), str(name):
                parent[name] = other.value
            case list(), int(index) if index < len(parent):
                parent[index] = other.value
            case _:
                raise _no_way(key, other.name, parent)
        for known in [known for known in self.places if known[: len(key)] == key]:
            del self.places[known]
        self.places |= {(*key, *inner): place for inner, place in other.places.items()} | {key: other.name}

    def _parent(self, key: Key, name: str) -> Value:
        """The container that `key` stands in; missing mappings on the way are made."""
        current = self.value
        for part in key[:-1]:
            match current, part:
                case dict(), str(word):
                    if current.get(word) is None:
                        current[word] = {}
                    current = current[word]
                case list(), int(index) if index < len(current):
                    current = current[index]
                case _:
                    raise _no_way(key, name, current)
        return current


def _no_way(key: Key, name: str, parent: Value) -> RecipeError:
    held = f"a list of {len(parent)}" if isinstance(parent, list) else "a mapping"
    if not isinstance(parent, list | dict):
        held = "a single value"
    return RecipeError(
        [Problem(name, dotted(key), f"no such key: its parent is {held}", "`qpipe schema` lists the keys")]
    )


class _Reader:
    """Turns composed nodes into values and notes their places."""

    def __init__(self, document: Document, yaml: YAML) -> None:
        self._document, self._yaml = document, yaml
        self._open: list[Node] = []
        self._count = 0

    def value(self, node: Node, key: Key) -> Value:
        """Value of a node that stands at `key`."""
        self._count += 1
        if node in self._open or self._count > LARGEST:
            self._problem(node, key, "aliases that hold themselves or grow without bound", "write the values out")
            raise RecipeError(self._document.problems)
        self._document.places.setdefault(key, self._place(node))
        self._open.append(node)
        result = self._read(node, key)
        self._open.pop()
        return result

    def _read(self, node: Node, key: Key) -> Value:
        if isinstance(node, MappingNode):
            return {name: self.value(inner, (*key, name)) for name, inner in self._entries(node, key)}
        if isinstance(node, SequenceNode):
            return [self.value(inner, (*key, index)) for index, inner in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, key)

    def _entries(self, node: MappingNode, key: Key) -> Iterator[tuple[str, Node]]:
        """Keys and nodes of a mapping; a key that stands twice is a problem that names both lines."""
        first: dict[str, str] = {}
        for name_node, inner in node.value:
            if not isinstance(name_node, ScalarNode):
                self._problem(name_node, key, "a list or mapping as a key", "keys are single words")
                continue
            name, place = str(name_node.value), self._place(name_node)
            if name in first:
                what = f"key stands twice, first in line {first[name].rpartition(':')[2]}"
                self._problem(name_node, (*key, name), what, "remove one")
                continue
            first[name] = self._document.places[*key, name] = place
            yield name, inner

    def _scalar(self, node: ScalarNode, key: Key) -> Value:
        tag, text = str(node.tag), str(node.value)
        if tag in _TEXT:
            return text
        if tag not in _PLAIN:
            self._problem(node, key, f"the tag {tag} means nothing here", "remove the tag")
            return text
        try:
            plain: Value = self._yaml.constructor.construct_object(node)
        except ValueError:
            self._problem(node, key, f"{text!r} is no {tag.rpartition(':')[2]}", "remove the tag")
            return text
        return plain

    def _place(self, node: Node) -> str:
        return f"{self._document.name}:{node.start_mark.line + 1}"

    def _problem(self, node: Node, key: Key, what: str, fix: str) -> None:
        self._document.problems.append(Problem(self._place(node), dotted(key), what, fix))


def _syntax(failure: Exception, name: str) -> Problem:
    """A syntax error in one sentence."""
    if isinstance(failure, RecursionError):
        return Problem(name, "", "nested too deeply", "write the recipe flatter")
    if not isinstance(failure, MarkedYAMLError) or failure.problem_mark is None:
        return Problem(name, "", f"no YAML: {str(failure).splitlines()[0]}", "save it as plain UTF-8 text")
    mark = failure.problem_mark
    what = f"YAML syntax, column {mark.column + 1}: {failure.problem}"
    fix = "check indentation, colons, quotes and brackets here and in the line above"
    if "'\\t'" in str(failure.problem):
        what, fix = "a tab in the indentation", "indent with spaces"
    elif failure.context_mark is not None and failure.context_mark.line != mark.line:
        what += f" ({failure.context}, from line {failure.context_mark.line + 1})"
    return Problem(f"{name}:{mark.line + 1}", "", what, fix)
