"""Tests of qonnx_pipe.observers."""
