"""Lowerings: how encodings become nodes of the graph, one form a file, driven by `graph/quantize.py`.

| file | lowers | to |
|---|---|---|
| `activation` | per-tensor activation | QuantizeLinear → DequantizeLinear |
| `activation` | activation in at most 16 embedding groups (`split`) | Split → K × QuantizeLinear |
| `activation` | activation in more groups (K = d) | Div → Add → QuantizeLinear, for a weight with scaled rows |
| `activation` | either, for readers that are no linear layer | Div → Round → Max → Min → Mul |
| `columns` | Split of what a linear layer computes | a linear layer a slice: no Split, no Gather of a permutation |
| `reference` | any activation (`reference`) | per-axis QuantizeLinear → DequantizeLinear, the oracle |
| `expand` | activation with windows for outlier dimensions | its codes and those of a few further columns, joined |
| `linear` | linear layer (`integer`) | MatMulIntegerToFloat with its bias; for a split activation K of them and a Sum |
| `linear` | linear layer (`qdq`) | MatMul or Gemm on dequantized operands; for a split activation K and a Sum |
| `blocks` | linear layer (`nbits`) | MatMulNBits; codes of 3 bits as the nibbles of two planes |
| `blocks` | linear layer (`blocked`) | MatMul with DequantizeLinear in blocks of inputs |
| `packing` | codes of fewer than 8 bits | INT4, or bytes and tables, from which the codes are computed at load |
| `attention` | softmax attention with its mask | Attention (opset 23) |
| `attention` | position bias and mask that several layers add to their scores | one Add for all of them |
| `sums` | Add before LayerNormalization | Sub or Sum, which onnxruntime does not fuse into a slower kernel |
| `sums` | Sum of integer products | Sub of negated ones, which is faster |
| `gather_nbits` | embedding table (`gather_nbits`) | GatherBlockQuantized: rows of 2 or 4 bits that stay packed |
| `gather` | other embedding tables | Gather of codes → DequantizeLinear or Cast and Mul, at load for a short table |
"""
