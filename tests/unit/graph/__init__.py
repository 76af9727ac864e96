"""Tests of qonnx_pipe.graph."""
