"""Metadata: what a model file says about itself under keys of our own."""

from __future__ import annotations

SESSION_KEY = "qonnx_pipe.session"
"""The entry of onnxruntime's session configuration that the file must run with: "key=value"."""

WITHOUT_FUSION = "session.disable_quant_qdq=1"
"""No fusion of QuantizeLinear and DequantizeLinear: onnxruntime fuses per-axis ones of activations, then fails."""
