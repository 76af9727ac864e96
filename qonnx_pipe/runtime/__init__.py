"""The only room that imports onnxruntime: sessions, workers, what ran in which kernel."""
