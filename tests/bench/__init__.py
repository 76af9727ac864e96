"""Benchmarks: what the README promises, measured; `make bench` runs them all, pytest none of them."""
