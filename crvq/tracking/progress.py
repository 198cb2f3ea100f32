"""Progress: a bar on a terminal, one plain line per block elsewhere."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.events import LayerRow, RunListener, summarize_block
from crvq.tracking.log import PROGRESS_LOGGER

_log = logging.getLogger(PROGRESS_LOGGER)


class ProgressBar(RunListener):
    """A bar for each stage with the time left, the current linear and its relative loss.

    Messages go above the bar, and so do log lines that other code sends to the terminal. Where
    the console is no terminal, blocks and messages become plain lines of the log (INFO).
    Enter it around a run, or the bar is left behind when the run fails.
    """

    def __init__(self, console: Console | None = None) -> None:
        """``console``: where to draw; stderr by default."""
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stage = ""
        self._streams: list[tuple[logging.StreamHandler, object]] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._progress = _bar(self._console)
            self._redirect_logs(self._progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []
        self._progress = None

    def stage_started(self, stage: str, total: int) -> None:
        """Draw the stage's bar."""
        self._stage = stage
        if self._progress is not None:
            self._tasks[stage] = self._progress.add_task(stage, total=total, note="")

    def stage_advanced(self, stage: str, note: str = "") -> None:
        """Move the bar one step."""
        if self._progress is not None and stage in self._tasks:
            self._progress.update(self._tasks[stage], advance=1, note=note)

    def stage_finished(self, stage: str, seconds: float) -> None:
        """Fill the bar and leave it."""
        if self._progress is not None and stage in self._tasks:
            task = self._tasks.pop(stage)
            total = self._progress.tasks[task].total
            self._progress.update(task, completed=total, note="")
            self._progress.stop_task(task)

    def note(self, text: str) -> None:
        """Show what the current step is busy with."""
        if self._progress is not None and self._stage in self._tasks:
            self._progress.update(self._tasks[self._stage], note=text)

    def linear_quantized(self, row: LayerRow) -> None:
        """Show the linear and its relative loss."""
        self.note(f"block {row.block} {row.kind} {row.relative_loss:.3g}")

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """Say a line where no bar is drawn."""
        if self._progress is None:
            _log.info("%s", summarize_block(block, rows, seconds))

    def block_trained(self, block: int, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """Say a line where no bar is drawn."""
        if self._progress is None:
            _log.info("block %d fine-tuned: %s", block, summary)

    def message(self, text: str) -> None:
        """Show a line above the bar."""
        if self._progress is None:
            _log.info("%s", text)
        else:
            self._progress.console.print(text, markup=False, highlight=False)

    def _redirect_logs(self, progress: Progress) -> None:
        """Start the bar and let the root logger's terminal handlers write above it."""
        before = (sys.stdout, sys.stderr)
        progress.start()  # from here on sys.stdout and sys.stderr write above the bar
        after = (sys.stdout, sys.stderr)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                self._streams.append((handler, handler.stream))
                handler.setStream(after[before.index(handler.stream)])


class _TimeColumn(TimeRemainingColumn):
    """``0:01:05 left`` while a stage runs, the time that it took afterwards."""

    def render(self, task: Task) -> Text:
        """Draw the time."""
        return super().render(task) if task.finished else super().render(task).append(" left")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        MofNCompleteColumn(),
        _TimeColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
        expand=True,
    )
