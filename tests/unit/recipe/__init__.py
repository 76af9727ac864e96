"""Unit tests of the recipe room."""
