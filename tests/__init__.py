"""Tests of qonnx_pipe."""
