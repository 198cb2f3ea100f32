"""A mirror of the run record in Weights & Biases; the record stays the source of truth."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from crvq.config import TrackingConfig
from crvq.tracking.background_calls import BackgroundCalls
from crvq.tracking.block_summary import summarize_block
from crvq.tracking.events import LayerRow, RunListener
from crvq.tracking.json_values import flatten, to_json
from crvq.tracking.layers_csv import LAYERS_FILE, layer_columns, read_layers

_log = logging.getLogger(__name__)

_SUMMARY = ("perplexity", "bits", "seconds", "effective")
_SUMMARY_VALUES = ("status", "peak_memory_bytes", "peak_gpu_memory_bytes", "result_digest")


class WandbMirror(RunListener):
    """Tells W&B of blocks as they come, and of results, time and layers at the end.

    W&B never harms a run: all calls are made in a thread of their own; the first that raises,
    and an end that takes longer than ``tracking.timeout_seconds``, is logged as one warning and
    the run goes on without W&B. ``online`` without a login or a connection becomes ``offline``.

    Leave it through ``finished`` or as a context manager, or the next run of a multirun would be
    mixed into this one.

    Offline, W&B cannot continue a run. A run that is resumed (or forced) offline, or could not go
    online, therefore gets an id with a number, ``<run_id>-2``; all attempts share name and group.
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
            folder: the run's folder; W&B's files go to ``wandb/`` in it.
            run_id: the run's id, also W&B's.
            config: the resolved configuration (the record's ``config``).
            sweep: the multirun's name: W&B's group, unless ``tracking.group`` is set.
        """
        self._tracking = tracking
        self._folder = folder
        self._run_id = run_id
        self._config = dict(config)
        self._group = tracking.group or sweep
        self._run: Any = None
        self._calls: BackgroundCalls | None = None
        if tracking.mode == "disabled":
            return
        before = WandbMirror._left_behind
        if before is not None and before.busy:
            _log.warning("W&B is left out of this run: it still hangs in an earlier one")
            return
        calls = BackgroundCalls("W&B")
        calls.submit(lambda: self._connect(calls))
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
        self._submit(lambda run: run.log(metrics, step=block))

    def finished(self, record: dict[str, Any]) -> None:
        """Send results as the summary, and the layers table; then close."""
        self._submit(lambda run: run.summary.update(_summary(record)))
        self._submit(self._log_layers)
        self.close(failed=record.get("status") == "failed")

    def close(self, *, failed: bool = False) -> None:
        """End W&B's run, waiting at most ``timeout_seconds``; does nothing the second time."""
        calls, self._calls = self._calls, None
        if calls is None:
            return

        def finish() -> None:
            if self._run is not None:
                self._run.finish(exit_code=int(failed))

        if not calls.close(self._tracking.timeout_seconds, finish):
            WandbMirror._left_behind = calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    def _submit(self, call: Any) -> None:  # noqa: ANN401 - a call on wandb's untyped run
        if self._calls is not None:
            self._calls.submit(lambda: call(self._run))

    def _connect(self, calls: BackgroundCalls) -> None:
        """Open W&B's run; offline if online does not work."""
        wandb = importlib.import_module("wandb")
        wandb.setup(settings=wandb.Settings(silent=True))  # no prompts, no banners
        mode = self._tracking.mode
        try:
            self._run = self._init(wandb, mode)
        except Exception as error:
            if mode != "online" or calls.given_up:
                raise
            _log.warning(
                "W&B cannot be used online (%s); this run is mirrored offline, see `wandb sync`",
                " ".join(str(error).split()) or type(error).__name__,
            )
            self._run = self._init(wandb, "offline")

    def _init(self, wandb: Any, mode: str) -> Any:  # noqa: ANN401
        timeout = self._tracking.timeout_seconds / 2  # leaves time to go offline instead
        self._folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._tracking.project,
            entity=self._tracking.entity,
            group=self._group,
            job_type="quantize",
            name=self._run_id,
            id=self._attempt_id() if mode == "offline" else self._run_id,
            resume=None if mode == "offline" else "allow",
            tags=list(self._tracking.tags),
            config=self._config,
            dir=str(self._folder),
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=timeout, finish_timeout=timeout
            ),
        )

    def _attempt_id(self) -> str:
        earlier = len(list((self._folder / "wandb").glob("*run-[0-9]*")))
        return f"{self._run_id}-{earlier + 1}" if earlier else self._run_id

    def _log_layers(self, run: Any) -> None:  # noqa: ANN401
        path = self._folder / LAYERS_FILE
        rows = [layer_columns(row) for row in read_layers(path)] if path.exists() else []
        if rows:
            wandb = importlib.import_module("wandb")
            data = [list(row.values()) for row in rows]
            run.log({"layers": wandb.Table(columns=list(rows[0]), data=data)})


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    sections = {name: record.get(name) or {} for name in _SUMMARY}
    values = {name: record.get(name) for name in _SUMMARY_VALUES}
    return to_json(flatten({**sections, **values}, separator="/"))
