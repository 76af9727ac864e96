"""Lowerings: how encodings become nodes of the graph, one form a file, driven by `graph/quantize.py`.

| file | lowers | to |
|---|---|---|
| `activation` | per-tensor activation | QuantizeLinear → DequantizeLinear |
| `activation` | per-embedding-group activation (`split`) | Split → K × (QuantizeLinear → DequantizeLinear) |
| `linear` | linear layer | MatMul or Gemm on dequantized operands; for a split activation K MatMuls and a Sum |
| `gather` | embedding table | Gather of codes → DequantizeLinear |
"""
