"""Tests of qonnx_pipe.core."""
