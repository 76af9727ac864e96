"""qonnx_pipe: Hugging Face transformers as small, fast, proven ONNX files for edge devices."""

__version__ = "0.1.0"
