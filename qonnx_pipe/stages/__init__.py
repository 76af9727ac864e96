"""Stages of the pipeline: typed inputs in, artifacts out."""
