"""Read the text that a config describes."""

from __future__ import annotations

from pathlib import Path

from crvq.config.text import TextConfig
from crvq.data.documents import Documents, require_text
from crvq.data.registry import find_text_source
from crvq.models.load import LoadedModel


def load_documents(config: TextConfig, cache: Path, loaded: LoadedModel | None = None) -> Documents:
    """Return the documents that ``config`` describes; a local ``path`` wins over ``source``.

    Args:
        config: a text source (calibration or evaluation).
        cache: folder for downloads (the hub has its own).
        loaded: the run's model, for sources that work with it.

    Raises:
        ConfigError: an unknown source, or a key that it needs is missing.
        SourceError: the text is missing, unreadable, blank or unreachable.
    """
    source = "path" if config.path is not None else config.source
    return require_text(find_text_source(source)(config, cache, loaded))
