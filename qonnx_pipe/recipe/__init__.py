"""Recipes: YAML → a frozen, strict schema; every mistake with its file:line."""
