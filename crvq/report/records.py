"""Run records and layer tables of many runs as data frames."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from crvq.tracking.csv_files import LAYERS_FILE
from crvq.tracking.json_values import flatten
from crvq.tracking.record_schema import RECORD_FILE, RecordError, check_run_file, read_record

_log = logging.getLogger(__name__)
_TEXTS = {"notes": str, "critical_in_features": str}
_NUMBERS = (
    "block",
    "out_features",
    "in_features",
    "critical_channels",
    "relative_loss",
    "bits",
)
_COLUMNS = ("name", "kind", *_NUMBERS)
"""What tables and figures of layers rely on."""
REFERENCE = "reference"
"""Folder of the results folder that holds shipped records, by experiment."""


def load_records(
    results_dir: str | Path, experiment: str | None = None, *, reference: bool = True
) -> pd.DataFrame:
    """Return all runs below ``results_dir``, one row per record (:func:`flat_record`).

    Runs of every status are included. A record that cannot be read gives a row with the status
    ``damaged`` and the reason in ``error.message``, and a warning is logged. No runs give an empty
    frame.

    Args:
        results_dir: holds ``<experiment>/<run_id>/record.json``, and shipped records in
            ``reference/<experiment>/<run_id>/``.
        experiment: only the runs of this experiment.
        reference: include shipped records.
    """
    folders = run_folders(Path(results_dir), experiment, reference=reference)
    return pd.DataFrame([_read_flat(folder) for folder in folders])


def flat_record(record: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """Return a record as one row of a frame.

    Nested sections become dotted columns: ``config.method_params.critical_ratio``,
    ``perplexity.wikipedia.quantized``, ``bits.average_quantized_weights``. Frames cannot tell a
    null from a key that another method does not have, so ``settings`` and ``effective_values``
    hold the flat configuration and what the method really used, as dictionaries. ``folder`` says
    where the run lies and ``reference`` whether it is a shipped one.
    """
    return {
        **flatten(record),
        "settings": flatten({"config": record.get("config") or {}}),
        "effective_values": dict(record.get("effective") or {}),
        "revisions": dict(record.get("algorithm") or {}),
        "folder": str(folder),
        "reference": is_reference(folder),
    }


def load_layers(
    results_dir: str | Path, experiment: str | None = None, *, reference: bool = True
) -> pd.DataFrame:
    """All rows of all ``layers.csv``, after the columns ``experiment``, ``run_id`` and ``folder``.

    A run is identified by its ``folder``, as in :func:`load_records`: one run id may lie in two
    experiments. A table that cannot be read is left out and a warning logged, so that one damaged
    file does not cost all the others.
    """
    tables = []
    for folder in run_folders(Path(results_dir), experiment, reference=reference):
        try:
            table = layer_table(folder)
        except RecordError as error:
            _log.warning("%s", error)
            continue
        if not table.empty:
            where = {
                "experiment": folder.parent.name,
                "run_id": folder.name,
                "folder": str(folder),
            }
            tables.append(pd.concat([pd.DataFrame(where, index=table.index), table], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def layer_table(folder: Path) -> pd.DataFrame:
    """Return the rows of one run's ``layers.csv``; an empty frame if it has none yet.

    A run that stopped before its first block leaves a file without a line.

    Raises:
        RecordError: the table cannot be read.
    """
    path = folder / LAYERS_FILE
    check_run_file(path)
    if not path.exists() or not path.read_bytes().strip():
        return pd.DataFrame()
    try:
        table = pd.read_csv(path, dtype=_TEXTS).fillna(dict.fromkeys(_TEXTS, ""))
        missing = [name for name in _COLUMNS if name not in table]
        if missing:
            raise ValueError(f"there is no column {missing[0]}")
        for name in _NUMBERS:
            table[name] = pd.to_numeric(table[name])
        return table
    except (ValueError, OSError) as error:
        raise RecordError(
            f"{path} is damaged: {error}. The run's record is not affected; its layers are missing "
            "from tables and figures until the file is restored."
        ) from error


def run_folders(
    results_dir: Path, experiment: str | None = None, *, reference: bool = True
) -> Iterator[Path]:
    """Yield folders below ``results_dir`` that hold a record: own ones, then shipped ones."""
    places = [results_dir, *([results_dir / REFERENCE] if reference else [])]
    name = "*" if experiment is None else glob.escape(experiment)
    for place in places:
        yield from (path.parent for path in sorted(place.glob(f"{name}/*/{RECORD_FILE}")))


def default_tables(results_dir: Path) -> Path:
    """Return the folder that tables of a results folder go to.

    Tables of shipped records are tracked files: they are written only where that was asked for.
    """
    shipped = results_dir.absolute().name == REFERENCE
    return (results_dir.absolute().parent if shipped else results_dir) / "tables"


def is_reference(folder: str | Path) -> bool:
    """Return whether a run's folder lies among the shipped records."""
    parents = Path(folder).absolute().parents
    return len(parents) > 1 and parents[1].name == REFERENCE


def origin(record: Mapping[Any, Any]) -> str:
    """Return who computed a shipped or reused record, and when: ``vm, cpu, 2026-11-22``.

    Args:
        record: a record, or a row of :func:`flat_record`.
    """
    device = record.get("device_name") or record.get("device")
    date = str(record.get("finished") or record.get("updated") or "")[:10]
    parts = (record.get("host"), device, date)
    return ", ".join(str(part) for part in parts if isinstance(part, str) and part) or "unknown"


def damaged_record(folder: Path, error: RecordError) -> dict[str, Any]:
    """Return what stands in for a record that cannot be read."""
    return {
        "run_id": folder.name,
        "experiment": folder.parent.name,
        "status": "damaged",
        "error": {"type": "RecordError", "message": str(error)},
    }


def _read_flat(folder: Path) -> dict[str, Any]:
    try:
        record = read_record(folder)
    except RecordError as error:
        _log.warning("%s", error)
        record = damaged_record(folder, error)
    return flat_record(record, folder)
