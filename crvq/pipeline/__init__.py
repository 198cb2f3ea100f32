"""A run: from a typed configuration to a run record."""
