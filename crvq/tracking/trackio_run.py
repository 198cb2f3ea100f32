"""A run in trackio: W&B's calls, kept in a local SQLite file that its dashboard reads live."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crvq.tracking.mirror import RunIdentity

_log = logging.getLogger(__name__)

TRACKIO_FOLDER = ".trackio"
"""Where trackio's files lie, below the folder of results: its dashboard compares runs."""


def trackio_folder(results_dir: Path) -> Path:
    """The folder to give to trackio as ``TRACKIO_DIR``; one that the user has set goes first."""
    return Path(os.environ.get("TRACKIO_DIR") or results_dir / TRACKIO_FOLDER)


class TrackioRun:
    """trackio's run. Nothing leaves the machine: no space, no server, no name looked up.

    trackio has no summary: results are logged as numbers, one step after the last block.
    A run that is resumed or forced gets its own row, with the same name.
    """

    def __init__(self, module: Any, run: Any) -> None:  # noqa: ANN401 - trackio may be absent
        self._trackio = module
        self._run = run
        self._last_step = -1

    @classmethod
    def open(cls, identity: RunIdentity, given_up: Callable[[], bool]) -> TrackioRun:
        """Open the run in ``<results_dir>/.trackio``."""
        trackio = _local_trackio(trackio_folder(identity.folder.parents[1]))
        return cls(
            trackio,
            trackio.init(
                project=identity.tracking.project,
                name=identity.run_id,
                group=identity.group,
                config=dict(identity.config),
                resume="never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            ),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add to the history."""
        self._last_step = max(self._last_step, step)
        # trackio keeps "step" and the like for itself; "block" is the step already.
        self._run.log({name: value for name, value in metrics.items() if name != "block"}, step)

    def results(self, summary: Mapping[str, Any]) -> None:
        """Log results that are numbers; the record has the others."""
        numbers = {
            name: value
            for name, value in summary.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        self._run.log(numbers, self._last_step + 1)

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a ``trackio.Table`` as ``layers``."""
        table = self._trackio.Table(data=[dict(row) for row in rows])
        self._run.log({"layers": table}, self._last_step + 1)

    def finish(self, *, failed: bool) -> None:
        """Write what is queued; trackio has no exit codes, the record says how a run ended."""
        self._run.finish()


def _local_trackio(folder: Path) -> Any:  # noqa: ANN401
    """Import trackio so that it writes to ``folder``, prints nothing and asks no server.

    It reads its folder once, at its import, so a process has one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = str(folder.absolute())
    try:
        import trackio
        import trackio.run
        import trackio.utils
    finally:
        if before is None:
            del os.environ["TRACKIO_DIR"]
        else:
            os.environ["TRACKIO_DIR"] = before
    used = Path(trackio.utils.TRACKIO_DIR)
    if used != folder.absolute():
        _log.warning("trackio keeps writing to %s: a process can use only one folder", used)
    for module in (trackio, trackio.run, trackio.utils):
        module.__dict__["print"] = _tell_log
    trackio.run.__dict__["_get_default_namespace"] = lambda: None
    trackio.utils.__dict__["resolve_space_id_and_server_url"] = lambda space, server: (None, None)
    return trackio


def _tell_log(*words: object, **options: object) -> None:
    """Instead of trackio's prints, which would break progress bars."""
    _log.debug("%s", " ".join(str(word) for word in words))
