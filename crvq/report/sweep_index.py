"""Which jobs a sweep had, and where each one's record lies: a small file for each job.

Jobs may run in other processes or on other machines; each writes only its own file, so nothing
has to be locked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crvq.files.atomic import write_json
from crvq.report.placed_record import placed_record
from crvq.report.run_labels import Record
from crvq.tracking.record_schema import RECORD_FILE, RecordError

_FOLDER = "jobs"


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    number: int
    overrides: tuple[str, ...] = ()
    folder: str | None = None
    """The run's folder, once the job knows it."""
    reused: bool | None = None
    """Whether the record was there already; None until the job says so."""
    name: str | None = None
    """``run.name`` of the job."""
    error_type: str | None = None
    error_message: str | None = None


def clear_jobs(sweep_dir: Path) -> None:
    """Forget the jobs of an earlier sweep into the same directory."""
    shutil.rmtree(sweep_dir / _FOLDER, ignore_errors=True)


def update_job(sweep_dir: Path, number: int, **values: Any) -> None:  # noqa: ANN401
    """Set fields of a job's entry, which is made if need be."""
    path = sweep_dir / _FOLDER / f"{number}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, asdict(SweepJob(**{**earlier, **values, "number": number})))


def read_jobs(sweep_dir: Path) -> list[SweepJob]:
    """Return all jobs that have begun, by number."""
    entries = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (sweep_dir / _FOLDER).glob("*.json")
    )
    jobs = [SweepJob(**{**entry, "overrides": tuple(entry["overrides"])}) for entry in entries]
    return sorted(jobs, key=lambda job: job.number)


def was_refused(sweep_dir: Path) -> bool:
    """Return whether every job of a sweep was refused before it had a record."""
    jobs = read_jobs(sweep_dir)
    return bool(jobs) and all(
        job.error_type is not None
        and (job.folder is None or not (Path(job.folder) / RECORD_FILE).exists())
        for job in jobs
    )


def remove_sweep(sweep_dir: Path, made: Sequence[Path]) -> None:
    """Remove the index of a refused sweep, and the folders made for it that are empty then.

    Args:
        sweep_dir: of the sweep.
        made: folders that did not exist before the sweep, the innermost first.
    """
    clear_jobs(sweep_dir)
    (sweep_dir / "multirun.yaml").unlink(missing_ok=True)  # Hydra's
    for folder in made:
        with suppress(OSError):  # not empty: something else lies there
            folder.rmdir()


def sweep_records(sweep_dir: Path) -> list[Record]:
    """Return the records of a sweep's jobs, in order; also of jobs that had nothing left to do.

    A job without a record (its configuration was refused, or it was killed at once) gets one
    with ``status``, ``error`` and a ``label`` made of its overrides.
    """
    return [_job_record(job) for job in read_jobs(sweep_dir)]


def _job_record(job: SweepJob) -> Record:
    error = {"type": job.error_type, "message": job.error_message or ""}
    label = " ".join(job.overrides) or f"job {job.number}"
    nothing: Record = {"label": label, "status": "failed" if job.error_type else "running"}
    if job.folder is not None:
        try:
            record = placed_record(Path(job.folder), bool(job.reused), job.name)
        except RecordError as damage:
            if not job.error_type:  # else the job was refused before it had a record
                error = {"type": "RecordError", "message": str(damage)}
            return {**nothing, "status": "failed", "error": error}
        # The job failed before it touched an earlier record, or after it closed its own.
        lost = job.error_type and record["status"] == "complete"
        return {**record, "status": "failed", "error": error} if lost else record
    return {**nothing, "error": error} if job.error_type else nothing
