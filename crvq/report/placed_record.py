"""A record as it lies here, made here or elsewhere."""

from __future__ import annotations

from pathlib import Path

from crvq.report.run_labels import Record
from crvq.tracking.record_schema import read_record


def placed_record(folder: Path, reused: bool = False, name: str | None = None) -> Record:
    """Return the record in a run's folder, with the place that it has now.

    Records are copied from machine to machine, and committed: what is said of where to look must
    be true here.

    Args:
        folder: the run's folder.
        reused: whether the record was there already, so that nothing was computed for it now; kept
            as the record's ``reused``.

        name: what the present command calls the run, whatever it was called when it was made.

    Raises:
        RecordError: as :func:`crvq.tracking.record_schema.read_record`.
    """
    record = read_record(folder)
    results, here = folder.absolute().parents[1], Path.cwd()
    shown = results.relative_to(here) if results.is_relative_to(here) else results
    config = {**(record.get("config") or {}), "results_dir": str(shown)}
    if name is not None:
        config["run"] = {"name": name}
    placed = {"experiment": folder.absolute().parent.name, "config": config, "reused": reused}
    return {**record, **placed}
