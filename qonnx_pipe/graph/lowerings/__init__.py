"""Lowerings: how encodings become nodes of the graph, one form a file, driven by `graph/quantize.py`.

| file | lowers | to |
|---|---|---|
| `activation` | per-tensor activation | QuantizeLinear → DequantizeLinear |
| `activation` | per-embedding-group activation (`split`) | Split → K × (QuantizeLinear → DequantizeLinear) |
| `linear` | linear layer (`integer`) | MatMulIntegerToFloat with its bias; for a split activation K of them and a Sum |
| `linear` | linear layer (`qdq`) | MatMul or Gemm on dequantized operands; for a split activation K and a Sum |
| `residual` | Add before LayerNormalization | Sum, which onnxruntime does not fuse into a slower kernel |
| `gather` | embedding table | Gather of codes → DequantizeLinear |
"""
