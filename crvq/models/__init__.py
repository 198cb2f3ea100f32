"""Causal language models: loading, precision of forward passes, their blocks and linears."""
