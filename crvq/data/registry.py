"""Text sources by name: each is one module in `crvq.data.text_sources`, found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from crvq.config.text import TextConfig
from crvq.data.documents import Documents
from crvq.errors import ConfigError

TextSource = Callable[[TextConfig, Path], Documents]
"""Reads what a config describes; the path is the cache folder for downloads."""

_SOURCES: dict[str, TextSource] = {}


def text_source(name: str) -> Callable[[TextSource], TextSource]:
    """Register the decorated function as the text source ``name``."""

    def register(function: TextSource) -> TextSource:
        if name in _SOURCES:
            raise ValueError(f"two text sources are called {name!r}")
        _SOURCES[name] = function
        return function

    return register


def find_text_source(name: str) -> TextSource:
    """The source called ``name``.

    Raises:
        ConfigError: there is none; the message lists all and guesses which was meant.
    """
    _import_all()
    if name not in _SOURCES:
        close = get_close_matches(name, _SOURCES, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"source={name!r} is not a text source{guess} Allowed: {', '.join(sorted(_SOURCES))}"
        )
    return _SOURCES[name]


def _import_all() -> None:
    """Import every module of `crvq.data.text_sources`, which registers what it defines."""
    package = importlib.import_module("crvq.data.text_sources")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
