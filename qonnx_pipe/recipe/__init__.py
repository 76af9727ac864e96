"""Recipes: YAML → a frozen, strict schema; every mistake with its file:line."""

from qonnx_pipe.recipe.loading import load
from qonnx_pipe.recipe.rules import Choice, resolve, shared_out
from qonnx_pipe.recipe.schema import Recipe, json_schema

__all__ = ["Choice", "Recipe", "json_schema", "load", "resolve", "shared_out"]
