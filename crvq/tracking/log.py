"""``run.log``: what a run said, in its own folder."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.events import LayerRow, RunListener, summarize_block

LOG_FILE = "run.log"
PROGRESS_LOGGER = "crvq.progress"
"""Where a progress display without a terminal writes; the file has those lines already."""


class _LogFile(logging.FileHandler):
    """A file that is left out when it cannot be written: a full disk must not hide the error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line."""


class RunLog(RunListener):
    """Writes ``run.log`` while it is entered: INFO and above, times in UTC; it is appended to.

    It takes all log records of the process, and as a listener a line for each block, message
    and stage, which go to the file alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG_FILE
        self._handler: logging.Handler | None = None
        self._package_level = logging.NOTSET

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(self._path, encoding="utf-8")
        formatter = logging.Formatter(
            "%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"
        )
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        handler.setLevel(logging.INFO)
        handler.addFilter(lambda record: record.name != PROGRESS_LOGGER)
        package = logging.getLogger("crvq")
        self._package_level = package.level
        if package.getEffectiveLevel() > logging.INFO:
            package.setLevel(logging.INFO)
        logging.getLogger().addHandler(handler)
        self._handler = handler
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._emit(logging.INFO, f"stopped: {error}; the same command resumes")
        elif error is not None:
            self._emit(logging.ERROR, f"{type(error).__name__}: {error}", error)
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            with suppress(OSError):  # what could not be written cannot be flushed either
                self._handler.close()
            self._handler = None
        logging.getLogger("crvq").setLevel(self._package_level)

    def stage_finished(self, stage: str, seconds: float) -> None:
        """Log the stage's time."""
        self._emit(logging.INFO, f"{stage}: {seconds:.1f} s")

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Log a line about the block and one about each of its linears."""
        self._emit(logging.INFO, str(summarize_block(block, rows, seconds)))
        for row in rows:
            text = f"  {row.name}: relative loss {row.relative_loss:.4g}, {row.bits:.3f} bits"
            self._emit(logging.INFO, f"{text}; {row.notes}" if row.notes else text)

    def block_trained(self, block: int, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Log what fine-tuning did to the block."""
        self._emit(logging.INFO, f"block {block} fine-tuned: {summary}")

    def message(self, text: str) -> None:
        """Log the message."""
        self._emit(logging.INFO, text)

    def _emit(self, level: int, text: str, error: BaseException | None = None) -> None:
        if self._handler is None:
            return
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord("crvq.run", level, __file__, 0, text, None, info)
        self._handler.handle(record)
