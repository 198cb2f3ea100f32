"""A run in Weights & Biases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import wandb
from wandb.sdk.wandb_run import Run

from crvq.tracking.mirror import RunIdentity

_log = logging.getLogger(__name__)


class WandbRun:
    """W&B's run, online or in offline files below the run's folder.

    Offline, W&B cannot continue a run. A run that is resumed (or forced) offline, or could not go
    online, therefore gets an id with a number, ``<run_id>-2``; all attempts share name and group.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @classmethod
    def open(cls, identity: RunIdentity, given_up: Callable[[], bool]) -> WandbRun:
        """Open the run; offline if online does not work, unless ``given_up`` by then."""
        wandb.setup(settings=wandb.Settings(silent=True))  # no prompts, no banners
        mode = identity.tracking.mode
        try:
            return cls(_init(identity, mode))
        except Exception as error:
            if mode != "online" or given_up():
                raise
            _log.warning(
                "W&B cannot be used online (%s); this run is mirrored offline, see `wandb sync`",
                " ".join(str(error).split()) or type(error).__name__,
            )
            return cls(_init(identity, "offline"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add to the history."""
        self._run.log(dict(metrics), step=step)

    def results(self, summary: Mapping[str, Any]) -> None:
        """Update W&B's summary."""
        self._run.summary.update(dict(summary))

    def layers(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a ``wandb.Table`` as ``layers``."""
        columns: list[Any] = list(rows[0])
        data: list[Any] = [list(row.values()) for row in rows]
        self._run.log({"layers": wandb.Table(columns=columns, data=data)})

    def finish(self, *, failed: bool) -> None:
        """Close with an exit code."""
        self._run.finish(exit_code=int(failed))


def _init(identity: RunIdentity, mode: str) -> Run:
    tracking = identity.tracking
    timeout = tracking.timeout_seconds / 2  # leaves time to go offline instead
    identity.folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        group=identity.group,
        job_type="quantize",
        name=identity.run_id,
        id=_attempt_id(identity) if mode == "offline" else identity.run_id,
        resume=None if mode == "offline" else "allow",
        tags=list(tracking.tags),
        config=dict(identity.config),
        dir=str(identity.folder),
        mode=mode,  # type: ignore[arg-type]
        reinit="finish_previous",
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=timeout, finish_timeout=timeout
        ),
    )


def _attempt_id(identity: RunIdentity) -> str:
    earlier = len(list((identity.folder / "wandb").glob("*run-[0-9]*")))
    return f"{identity.run_id}-{earlier + 1}" if earlier else identity.run_id
