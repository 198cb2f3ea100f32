"""Errors that a user can mend: each message says what was wrong, what was seen and what to do."""

from __future__ import annotations


class CrvqError(Exception):
    """Base of every error that this package raises on purpose; shown without a traceback."""


class ConfigError(CrvqError):
    """A key or a value of the configuration cannot be used."""


class SourceError(CrvqError):
    """A model, a text or a download is missing, broken or unreachable."""


class QuantizationError(CrvqError):
    """Quantization cannot continue, for example because a layer's input is not finite."""


class CheckpointError(CrvqError):
    """A packed checkpoint is missing tensors, is damaged, or belongs to another run."""
