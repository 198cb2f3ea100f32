"""Things that a configuration or a file names: one table per kind of thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Generic, TypeVar

from crvq.errors import ConfigError
from crvq.plugins import load_plugins

T = TypeVar("T")
Named = TypeVar("Named")


class Registry(Generic[T]):
    """Entries by name.

    Entries are added where they are defined, by decorator; the package that owns the registry
    imports those modules explicitly, so that a name is known as soon as the package is imported.

    Args:
        key: the configuration key (or other word) that messages put before a name: ``method``.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Named], Named]:
        """Return a decorator that adds what it decorates under ``name``.

        Raises:
            ValueError: the name is taken (see `add`).
        """

        def decorate(entry: Named) -> Named:
            self.add(name, entry)  # type: ignore[arg-type]
            return entry

        return decorate

    def add(self, name: str, entry: T) -> None:
        """Add an entry. Adding the same definition again (a reloaded module) replaces it.

        Raises:
            ValueError: something else has that name.
        """
        known = self._entries.get(name)
        if known is not None and _definition(known) != _definition(entry):
            raise ValueError(f"{self.key} {name!r} is already {_definition(known)[1]}")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Remove an entry, if there is one of that name."""
        self._entries.pop(name, None)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._entries)

    def get(self, name: str, known: Sequence[str] | None = None) -> T:
        """Return the entry of that name.

        Args:
            name: of the entry.
            known: names to list and suggest, where some are added only when they are needed.

        Raises:
            ConfigError: there is none; lists the names and suggests the nearest.
        """
        if name not in self:
            names = list(known or self.names())
            close = get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{self.key}={name!r} is not known; known: {', '.join(names)}.{hint}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._entries:
            load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def _definition(entry: object) -> tuple[str, str]:
    """Return where an entry is defined: equal for a module's class before and after a reload.

    An entry that wraps a function (``__wrapped__``, as `functools.wraps` sets it) is that function.
    """
    entry = getattr(entry, "__wrapped__", entry)
    kind = type(entry).__qualname__
    return getattr(entry, "__module__", ""), getattr(entry, "__qualname__", kind)
