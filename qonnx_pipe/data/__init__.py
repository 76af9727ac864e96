"""Where examples come from: files, installed packages, the hub; and how texts become batches."""

from qonnx_pipe.data.batches import batches
from qonnx_pipe.data.loading import load

__all__ = ["batches", "load"]
