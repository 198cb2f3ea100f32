"""What is measured on a model, before and after it is quantized."""
