"""The run record on disk: what a run was, what it did and what came out, always up to date."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from crvq.config import RunConfig
from crvq.files.atomic import move_aside
from crvq.files.digests import file_digest
from crvq.tracking.csv_files import (
    FINETUNE_FILE,
    LAYERS_FILE,
    read_layers,
    write_finetune,
    write_layers,
)
from crvq.tracking.environment import environment, slurm_job
from crvq.tracking.events import LayerRow
from crvq.tracking.record_schema import (
    RECORD_FILE,
    Attempt,
    NewerRecordError,
    Record,
    RecordedError,
    RecordError,
    load_record,
    write_record,
)
from crvq.tracking.record_values import RecordValues, blank_record

_log = logging.getLogger(__name__)


class RunRecord(RecordValues):
    """``record.json``, ``layers.csv`` and ``finetune.csv`` of one run.

    Each is rewritten whole at every change, and the record holds the digests of the other two. As
    a context manager it records an exception that passes through it: as a failure, or as
    ``stopped`` if it was Ctrl-C or SIGTERM.
    """

    def __init__(self, folder: Path, record: Record, rows: Iterable[LayerRow] = ()) -> None:
        super().__init__(record, rows)
        self.folder = folder

    @classmethod
    def start(
        cls,
        folder: Path,
        config: RunConfig,
        run_id: str,
        *,
        sweep: str | None = None,
        fresh: bool = False,
    ) -> RunRecord:
        """Open a run's record with status ``running`` and write it.

        A record of the same run that is not complete is continued: its start, seconds, notes and
        layer rows are kept, and ``resumes`` and ``attempts`` grow. One that cannot be read is
        moved aside, and a note says where to.

        Args:
            folder: ``results/<experiment>/<run_id>``, or the folder of an attempt next to it.
            config: the typed configuration.
            run_id: from :func:`crvq.tracking.run_id.run_id`.
            sweep: name of the multirun that the run was started by.
            fresh: start over although an unfinished record is there.

        Raises:
            NewerRecordError: a newer version of this package wrote the record.
            RecordError: the folder holds a complete record, which is never overwritten.
        """
        earlier, rows, notes = _earlier(folder, run_id)
        if earlier is not None and earlier.status == "complete":
            raise RecordError(f"{folder} holds a complete record, which is not overwritten.")
        if fresh:
            earlier, rows = None, []
        record = _new_record(config, run_id, sweep)
        if earlier is not None:
            record.started = earlier.started
            record.attempts = [*earlier.attempts, *record.attempts]
            record.resumes = earlier.resumes + 1
            record.seconds = earlier.seconds
            record.notes = earlier.notes
            record.peak_memory_bytes = earlier.peak_memory_bytes
            record.peak_gpu_memory_bytes = earlier.peak_gpu_memory_bytes
        record.notes = [*record.notes, *notes]
        opened = cls(folder, record, rows)
        opened._store_layers()
        opened._store()
        return opened

    @classmethod
    def reopen(cls, folder: Path) -> RunRecord:
        """Open a run's record as it is, to add to it.

        Raises:
            RecordError: it is missing or damaged.
        """
        return cls(folder, load_record(folder))

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Return whether ``folder`` holds the record of a finished run; a damaged one does not."""
        try:
            return load_record(folder).status == "complete"
        except NewerRecordError:
            raise
        except RecordError:
            return False

    @property
    def path(self) -> Path:
        """Path of ``record.json``."""
        return self.folder / RECORD_FILE

    def fail(self, error: BaseException) -> None:
        """Close the record with the error; what was done so far is kept."""
        self._record.error = RecordedError(
            type=type(error).__name__,
            message=str(error),
            traceback="".join(traceback.format_exception(error)).splitlines(),
        )
        self._close("failed")

    def stop(self) -> None:
        """Close the record of a run that was asked to stop; the same command resumes it."""
        self._close("stopped")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._record.status == "complete":
            return
        try:
            # A queueing system that takes the machine back ends the process by SystemExit.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.stop()
            else:
                self.fail(error)
        except OSError as unwritable:
            # A full disk is the likeliest reason for the error itself, which matters more.
            _log.warning("%s could not be written: %s", self.path, unwritable)

    def _store(self) -> None:
        self._record.updated = datetime.now(UTC)
        write_record(self.path, self._record.to_json())

    def _store_layers(self) -> None:
        write_layers(self.folder / LAYERS_FILE, self.layer_rows)
        self._note_file(LAYERS_FILE)

    def _store_curve(self) -> None:
        write_finetune(self.folder / FINETUNE_FILE, self.curve)
        self._note_file(FINETUNE_FILE)

    def _note_file(self, name: str) -> None:
        """Keep a file's digest in the record, so that later damage is noticed."""
        self.set("files", {**self._record.files, name: file_digest(self.folder / name)})


def _new_record(config: RunConfig, run_id: str, sweep: str | None) -> Record:
    now = datetime.now(UTC)
    around = environment()
    git = around["git"]
    attempt = Attempt(
        started=now,
        host=around["host"],
        pid=os.getpid(),
        git_commit=git and git["commit"],
        slurm_job=slurm_job(os.environ),
    )
    found = {"sweep": sweep, "forced": config.force, "attempts": [attempt], **around}
    return blank_record(config, run_id).model_copy(update=found)


def _earlier(folder: Path, run_id: str) -> tuple[Record | None, list[LayerRow], list[str]]:
    """Return the record in ``folder`` to continue, its layer rows, and notes on what was damaged.

    Rows are continued only if they are those that the record counts on: a resumed run hears of
    its stored blocks again, so that none is lost.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None, [], []
    try:
        record = load_record(folder)
    except NewerRecordError:
        raise
    except RecordError as error:
        kept = move_aside(path, folder)
        return None, [], [f"{error} It was moved to {kept}."]
    if record.run_id != run_id:
        kept = move_aside(path, folder)
        return None, [], [f"The record of another run, {record.run_id}, was moved to {kept}."]
    layers = folder / LAYERS_FILE
    try:
        if file_digest(layers) != record.files.get(LAYERS_FILE):
            return record, [], []
        return record, read_layers(layers), []
    except (OSError, RecordError):
        return record, [], []
