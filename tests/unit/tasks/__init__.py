"""Tests of qonnx_pipe.tasks."""
