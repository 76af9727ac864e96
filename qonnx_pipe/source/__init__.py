"""The only room that imports torch, transformers and optimum: checkpoints and their export."""
