"""Tiny models made in code."""
