"""Tests of qonnx_pipe.stages."""
