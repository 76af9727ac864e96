"""Tests of qonnx_pipe.data."""
