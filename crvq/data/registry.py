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
from crvq.models.load import LoadedModel

TextSource = Callable[..., Documents]
"""Reads what a `TextConfig` describes; it is given that, the cache folder for downloads and, if it
is registered so, the `LoadedModel` of the run."""

_SOURCES: dict[str, TextSource] = {}
_WITH_MODEL: set[str] = set()


def text_source(name: str, needs_model: bool = False) -> Callable[[TextSource], TextSource]:
    """Register the decorated function as the text source ``name``.

    Args:
        name: for ``source=name``.
        needs_model: whether the function takes the run's `LoadedModel` as its third argument.
    """

    def register(function: TextSource) -> TextSource:
        if name in _SOURCES:
            raise ValueError(f"two text sources are called {name!r}")
        _SOURCES[name] = function
        if needs_model:
            _WITH_MODEL.add(name)
        return function

    return register


def find_text_source(name: str) -> TextSource:
    """Return the source called ``name``.

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


def read_source(
    name: str, config: TextConfig, cache: Path, loaded: LoadedModel | None
) -> Documents:
    """Return what the source called ``name`` makes of ``config``.

    Raises:
        ConfigError: no such source, or it needs a model and there is none.
    """
    source = find_text_source(name)
    if name not in _WITH_MODEL:
        return source(config, cache)
    if loaded is None:
        raise ConfigError(f"source={name} needs a model to work with; choose another source")
    return source(config, cache, loaded)


def _import_all() -> None:
    """Import every module of `crvq.data.text_sources`, which registers what it defines."""
    package = importlib.import_module("crvq.data.text_sources")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
