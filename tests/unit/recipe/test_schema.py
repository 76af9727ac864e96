"""The JSON Schema is the reference: every key is described, every default holds, and it agrees with the models."""

from collections.abc import Iterator

import pytest

from qonnx_pipe.core.qtype import QTYPES
from qonnx_pipe.core.site import Role
from qonnx_pipe.recipe import json_schema
from qonnx_pipe.recipe.fitting import FIRST_ACTIVATIONS, FIRST_WEIGHTS

DEFINITIONS = {"Recipe": json_schema(), **json_schema()["$defs"]}


def properties() -> Iterator[tuple[str, str, dict]]:
    for owner, definition in DEFINITIONS.items():
        for key, schema in definition.get("properties", {}).items():
            yield owner, key, schema


@pytest.mark.parametrize(("owner", "key", "schema"), list(properties()))
def test_every_key_is_described(owner: str, key: str, schema: dict) -> None:
    referred = DEFINITIONS.get(schema.get("$ref", "").rpartition("/")[2], {})
    assert len(schema.get("description") or referred.get("description", "")) > 10, f"{owner}.{key}"


def test_it_is_draft_2020_12_and_refuses_unknown_keys() -> None:
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    mappings = [definition for definition in DEFINITIONS.values() if definition["type"] == "object"]
    assert len(mappings) >= 12
    assert all(definition["additionalProperties"] is False for definition in mappings)


def test_keys_are_those_that_the_recipe_says() -> None:
    keys = {"version", "name", "model", "data", "train", "quantize", "validate"}
    assert set(json_schema()["properties"]) == keys
    assert {"match", "weights", "activations", "float"} == set(DEFINITIONS["Rule"]["properties"])


def test_types_and_roles_come_from_the_core() -> None:
    assert set(DEFINITIONS["Activations"]["properties"]["dtype"]["anyOf"][0]["enum"]) == {*QTYPES, "float"}
    assert set(DEFINITIONS["Role"]["enum"]) == {str(role) for role in Role}


def test_defaults_are_complete_and_those_of_the_descriptions() -> None:
    for first in (FIRST_WEIGHTS, FIRST_ACTIVATIONS):
        assert all(value is not None for _, value in first)
        described = DEFINITIONS[type(first).__name__]["properties"]
        assert f"At first {first.dtype}." in described["dtype"]["description"]
        assert f"{first.granularity} (the default)" in described["granularity"]["description"]
        assert f"{str(first.symmetric).lower()} at first" in described["symmetric"]["description"]
        assert f"{first.range} (the default)" in described["range"]["description"]
