"""Text sources by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from crvq.config.text import TextConfig
from crvq.data.documents import Documents
from crvq.errors import ConfigError
from crvq.models.load import LoadedModel
from crvq.registry import Registry

ReadText = Callable[..., Documents]
"""Reads what a `TextConfig` describes; it is given that, the cache folder for downloads and, if it
is registered so, the `LoadedModel` of the run."""


@dataclass(frozen=True)
class TextSource:
    """A function that reads text, and whether it works with the run's model."""

    read: ReadText
    needs_model: bool

    @property
    def __wrapped__(self) -> ReadText:
        """The function, by which the registry tells sources apart."""
        return self.read

    def __call__(
        self, config: TextConfig, cache: Path, loaded: LoadedModel | None = None
    ) -> Documents:
        """Return what the source makes of ``config``.

        Raises:
            ConfigError: it needs a model and there is none.
        """
        if not self.needs_model:
            return self.read(config, cache)
        if loaded is None:
            raise ConfigError(
                f"source={config.source} needs a model to work with; choose another source"
            )
        return self.read(config, cache, loaded)


TEXT_SOURCES: Registry[TextSource] = Registry("source")


def text_source(name: str, needs_model: bool = False) -> Callable[[ReadText], ReadText]:
    """Register the decorated function as the text source ``name``.

    Args:
        name: for ``source=name``.
        needs_model: whether the function takes the run's `LoadedModel` as its third argument.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: ReadText) -> ReadText:
        TEXT_SOURCES.add(name, TextSource(function, needs_model))
        return function

    return register


def find_text_source(name: str) -> TextSource:
    """Return the source called ``name``.

    Raises:
        ConfigError: there is none; the message lists all and guesses which was meant.
    """
    import_module("crvq.data.text_sources")  # imports this module in turn, so not at the top
    return TEXT_SOURCES.get(name)
