"""Tests of qonnx_pipe.runtime.providers."""
