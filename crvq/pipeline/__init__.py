"""The walk: from a typed configuration to a run record."""
