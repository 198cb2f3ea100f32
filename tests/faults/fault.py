"""What a fault is: its kind (a row of the table), its name, and the check that it is survived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.bench import Bench


class SkippedError(Exception):
    """The fault cannot be made on this machine."""


@dataclass(frozen=True)
class Fault:
    """One fault to try."""

    kind: str
    name: str
    check: Callable[[Bench], None]
    """Raises AssertionError if the fault is not survived, `SkippedError` if it cannot be made."""
    short: bool = False
    """Part of the short form."""
