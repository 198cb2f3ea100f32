"""The command line: Hydra in, typed configuration out, errors shown as people want them."""
