"""The only room that imports onnx, onnx_ir and onnxsim: reading, recognising, rewriting graphs."""
