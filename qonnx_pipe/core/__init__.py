"""Values: what a quantized model is made of, in numpy and the standard library alone."""
