"""What a tracking package is asked to mirror, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from crvq.config import TrackingConfig


@dataclass(frozen=True)
class RunIdentity:
    """Who a mirrored run is."""

    tracking: TrackingConfig
    folder: Path
    """The run's own folder, ``<results_dir>/<experiment>/<run_id>``."""
    run_id: str
    config: Mapping[str, Any]
    """The resolved configuration, as the record keeps it."""
    group: str | None
    """Runs of one sweep share it."""


class MirroredRun(Protocol):
    """An open run of a tracking package; every call may block or raise."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add numbers to the history."""
        ...

    def results(self, summary: Mapping[str, Any]) -> None:
        """Say what came out: flat keys, values as JSON has them."""
        ...

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the table of linears; all rows have the same columns."""
        ...

    def finish(self, *, failed: bool) -> None:
        """Write everything and close."""
        ...
