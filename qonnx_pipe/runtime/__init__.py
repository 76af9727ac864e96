"""The only room that imports onnxruntime: sessions, observation, clocks, the census of kernels."""
