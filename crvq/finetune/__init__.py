"""Training of codebooks, scales and norms after quantization."""
