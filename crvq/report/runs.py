"""Everything that run folders hold, read so that one damaged file spoils one run at most."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from crvq.errors import CrvqError
from crvq.report.records import (
    REFERENCE,
    damaged_record,
    is_reference,
    layer_table,
    run_folders,
)
from crvq.report.run_labels import Record, run_labels
from crvq.tracking.csv_files import FINETUNE_FILE, LAYERS_FILE
from crvq.tracking.record_schema import RECORD_FILE, RecordError, check_run_file, read_record

WATCHED_FILES = (RECORD_FILE, LAYERS_FILE, FINETUNE_FILE)
"""Files of a run folder that the page is made from."""


class NoRunsError(CrvqError):
    """There is nothing to show."""


@dataclass
class Run:
    """One run as its folder describes it."""

    folder: Path
    record: Record
    label: str = ""
    """What distinguishes the run from others of its experiment."""
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows of ``layers.csv``; empty if there is none."""
    finetune: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows of ``finetune.csv``; empty if there is none."""
    faults: list[str] = field(default_factory=list)
    """Files that could not be read, and why."""

    @property
    def experiment(self) -> str:
        """The folder's name: a record that was copied elsewhere goes by where it lies."""
        return self.folder.parent.name

    @property
    def key(self) -> str:
        """Unique among all runs: one run id may lie in two experiments."""
        place = f"{self.experiment}/{self.folder.name}"
        return f"{REFERENCE}/{place}" if self.reference else place

    @property
    def reference(self) -> bool:
        """Whether this is a shipped record."""
        return is_reference(self.folder)

    @property
    def status(self) -> str:
        """``complete``, ``running``, ``stopped``, ``failed`` or ``damaged``."""
        return str(self.record["status"])


def load_runs(
    results_dir: Path, experiment: str | None = None, *, reference: bool = True
) -> list[Run]:
    """Return all runs below ``results_dir``, by experiment, oldest first, with labels.

    A shipped record whose run the user's own results hold in the same experiment is left out.

    A record that cannot be read gives a run with the status ``damaged`` and the reason as its
    error; a table that cannot be read gives an empty one and an entry in ``faults``.

    Args:
        results_dir: holds ``<experiment>/<run_id>/record.json``.
        experiment: only this one.
        reference: include shipped records; their labels say so.
    """
    runs = [_run(folder) for folder in run_folders(results_dir, experiment, reference=reference)]
    own = {run.key for run in runs if not run.reference and run.status == "complete"}
    runs = [run for run in runs if run.key.removeprefix(f"{REFERENCE}/") not in own - {run.key}]
    runs.sort(key=lambda run: (run.experiment, str(run.record.get("started", "~")), run.key))
    for name in dict.fromkeys(run.experiment for run in runs):
        _label([run for run in runs if run.experiment == name])
    return runs


def no_runs(results_dir: Path, experiment: str | None = None) -> NoRunsError:
    """Return the error for an empty results folder: what was looked for, and how to get a run."""
    below = wrong_folder(results_dir)
    if below is not None:
        return below
    found = sorted({folder.parent.name for folder in run_folders(results_dir)})
    if experiment is not None and found:
        return NoRunsError(
            f"There are no runs of the experiment {experiment!r} below {results_dir}; experiments "
            f"there: {', '.join(found)}."
        )
    if not results_dir.is_dir():
        seen = f"There is no folder {results_dir}"
    else:
        seen = f"There is no {experiment or '<experiment>'}/<run_id>/{RECORD_FILE} below it"
        seen = f"{results_dir} holds no runs. {seen}"
    return NoRunsError(
        f"{seen}. `python run.py` makes a first run and leaves its record in results/; name "
        "another folder as `python -m crvq.report FOLDER`; --watch waits for the first record."
    )


def wrong_folder(results_dir: Path) -> NoRunsError | None:
    """The error for the folder of one experiment or run, which says what to ask for instead."""
    folder = results_dir.absolute()  # of "." the parents are asked for
    if (folder / RECORD_FILE).exists():
        kind, experiment = "run", folder.parent
    elif any(folder.glob(f"*/{RECORD_FILE}")):
        kind, experiment = "experiment", folder
    else:
        return None
    results = experiment.parent if results_dir.is_absolute() else _as_typed(experiment.parent)
    return NoRunsError(
        f"{results_dir} is the folder of one {kind}, not of all results; for its experiment alone: "
        f"`python -m crvq.report {results} --experiment {experiment.name}`."
    )


def _as_typed(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _run(folder: Path) -> Run:
    try:
        run = Run(folder, read_record(folder))
    except RecordError as error:
        run = Run(folder, damaged_record(folder, error))
    try:
        run.layers = layer_table(folder)
    except RecordError as error:
        run.faults.append(str(error))
    path = folder / FINETUNE_FILE
    try:
        check_run_file(path)
        run.finetune = pd.read_csv(path) if path.exists() else pd.DataFrame()
    except RecordError as error:
        run.faults.append(str(error))
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        run.faults.append(f"{path} cannot be read: {error}")
    return run


def _label(runs: list[Run]) -> None:
    """Name the runs of one experiment by what sets them apart, or by their ids."""
    readable = [run for run in runs if run.status != "damaged"]
    for run, label in zip(readable, run_labels([run.record for run in readable]), strict=True):
        run.label = label
    taken = Counter(run.label for run in readable)
    for run in runs:
        if not run.label:
            run.label = run.folder.name
        elif taken[run.label] > 1:
            run.label = f"{run.label} ({run.folder.name.rpartition('-')[2]})"
    if any(run.reference for run in runs) and not all(run.reference for run in runs):
        for run in runs:
            run.label += " · reference" if run.reference else ""
