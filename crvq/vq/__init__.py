"""The arithmetic of vector quantization: plain tensors in, plain tensors out."""
