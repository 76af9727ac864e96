"""Unit tests, mirroring the package."""
