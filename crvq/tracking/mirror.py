"""What a tracking package is asked to mirror, and the listener that mirrors a run to it."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from crvq.config import TrackingConfig
from crvq.errors import ConfigError
from crvq.registry import Registry
from crvq.tracking.background_calls import BackgroundCalls
from crvq.tracking.csv_files import LAYERS_FILE, layer_columns, read_layers
from crvq.tracking.events import LayerRow, RunListener, summarize_block
from crvq.tracking.json_values import flatten, to_json


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


_log = logging.getLogger(__name__)

_SUMMARY = (
    "perplexity",
    "agreement",
    "kv_cache",
    "zero_shot",
    "bits",
    "seconds",
    "effective",
    "finetune",
)
_SUMMARY_VALUES = ("status", "peak_memory_bytes", "peak_gpu_memory_bytes", "result_digest")
_STOP_SECONDS = 2.0
"""What a run that was asked to stop waits for its mirror."""


@dataclass(frozen=True)
class Tracker:
    """A tracking package that a run can be mirrored to."""

    label: str
    """As people write its name."""
    package: str
    """What must be installed."""
    open: Callable[[RunIdentity, Callable[[], bool]], MirroredRun]
    """Opens a run; its second argument says whether the run has given up waiting."""

    @property
    def __wrapped__(self) -> object:
        """By which the registry tells trackers apart."""
        return self.open


def _open_wandb(identity: RunIdentity, given_up: Callable[[], bool]) -> MirroredRun:
    from crvq.tracking.wandb_run import WandbRun  # imports W&B, which takes a second

    return WandbRun.open(identity, given_up)


def _open_trackio(identity: RunIdentity, given_up: Callable[[], bool]) -> MirroredRun:
    from crvq.tracking.trackio_run import TrackioRun

    return TrackioRun.open(identity, given_up)


TRACKERS: Registry[Tracker] = Registry("tracking.backend")
TRACKERS.add("wandb", Tracker("W&B", "wandb", _open_wandb))
TRACKERS.add("trackio", Tracker("trackio", "trackio", _open_trackio))


def check_tracking(tracking: TrackingConfig) -> None:
    """Refuse an unknown backend, or a package that is not installed.

    Raises:
        ConfigError: lists the known ones, or says what to install.
    """
    package = TRACKERS.get(tracking.backend).package
    if tracking.mode == "disabled" or importlib.util.find_spec(package) is not None:
        return
    raise ConfigError(
        f"tracking.backend={tracking.backend}: the package {package} is not installed; "
        f"run `pip install 'crvq[{package}]'` (in a checkout `pip install -c "
        f"constraints.txt -e '.[{package}]'`), or set tracking=disabled"
    )


class Mirror(RunListener):
    """Tells W&B or trackio of blocks as they come, and of results, time and layers at the end.

    It never harms a run: all calls are made in a thread of their own; the first that raises,
    and an end that takes longer than ``tracking.timeout_seconds``, is logged as one warning and
    the run continues without the mirror. W&B's ``online`` without a login or a connection becomes
    ``offline``.

    Leave it through ``finished`` or as a context manager, or the next run of a multirun would be
    mixed into this one.
    """

    _left_behind: ClassVar[BackgroundCalls | None] = None

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: Path,
        run_id: str,
        config: Mapping[str, Any],
        *,
        sweep: str | None = None,
    ) -> None:
        """Connect in the background and return at once.

        Args:
            tracking: the tracking group.
            folder: the run's folder; W&B's files go to ``wandb/`` in it, trackio's to
                ``.trackio`` in the folder of all results.
            run_id: the run's id, also the mirrored run's.
            config: the resolved configuration (the record's ``config``).
            sweep: the multirun's name: the group, unless ``tracking.group`` is set.
        """
        group = tracking.group or sweep
        self._identity = RunIdentity(tracking, folder, run_id, dict(config), group)
        self._run: MirroredRun | None = None
        self._calls: BackgroundCalls | None = None
        if tracking.mode == "disabled":
            return
        name = TRACKERS.get(tracking.backend).label
        before = Mirror._left_behind
        if before is not None and before.busy:
            _log.warning("%s is left out of this run: it still hangs in an earlier one", name)
            return
        calls = BackgroundCalls(name)
        calls.submit(lambda: self._open(calls))
        self._calls = calls

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Log the block's losses, bits and time, with the block's number as step."""
        summary = summarize_block(block, rows, seconds)
        metrics = {
            "block": block,
            "relative_loss/mean": summary.relative_loss_mean,
            "relative_loss/max": summary.relative_loss_max,
            "bits/block": summary.bits,
            "seconds/block": seconds,
        }
        self._submit(lambda run: run.log(metrics, block))

    def finished(self, record: dict[str, Any]) -> None:
        """Send results and the table of linears; then close."""
        self._submit(lambda run: run.results(_summary(record)))
        self._submit(self._send_layers)
        self.close(failed=record.get("status") == "failed")

    def close(self, *, failed: bool = False, stopped: bool = False) -> None:
        """End the run, waiting at most ``timeout_seconds``; does nothing the second time.

        Args:
            failed: mark the run as failed.
            stopped: the process is about to end, so wait for a moment only.
        """
        calls, self._calls = self._calls, None
        if calls is None:
            return

        def finish() -> None:
            if self._run is not None:
                self._run.finish(failed=failed)

        patience = self._identity.tracking.timeout_seconds
        if not calls.close(min(patience, _STOP_SECONDS) if stopped else patience, finish):
            Mirror._left_behind = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None, stopped=isinstance(error, KeyboardInterrupt))

    def _submit(self, call: Callable[[MirroredRun], None]) -> None:
        if self._calls is not None:
            self._calls.submit(lambda: self._call(call))

    def _call(self, call: Callable[[MirroredRun], None]) -> None:
        assert self._run is not None  # a failure to open drops all later calls
        call(self._run)

    def _open(self, calls: BackgroundCalls) -> None:
        """Import the package, which takes a second, and open the run."""
        tracker = TRACKERS.get(self._identity.tracking.backend)
        self._run = tracker.open(self._identity, lambda: calls.given_up)

    def _send_layers(self, run: MirroredRun) -> None:
        path = self._identity.folder / LAYERS_FILE
        rows = [layer_columns(row) for row in read_layers(path)] if path.exists() else []
        if rows:
            run.layers(rows)


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    sections = {name: record.get(name) or {} for name in _SUMMARY}
    values = {name: record.get(name) for name in _SUMMARY_VALUES}
    return to_json(flatten({**sections, **values}, separator="/"))
