"""Run records and layer tables of many runs as data frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from crvq.tracking.json_values import flatten
from crvq.tracking.layers_csv import LAYERS_FILE
from crvq.tracking.record_schema import RECORD_FILE, RecordError, read_record

_log = logging.getLogger(__name__)
_TEXTS = {"notes": str, "critical_in_features": str}


def load_records(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """All runs below ``results_dir``, a row each.

    Nested sections become dotted columns: ``config.method_params.critical_ratio``,
    ``perplexity.wikipedia.quantized``, ``bits.average_quantized_weights``. ``folder`` says where
    a run lies. Runs of every status are there; one whose record cannot be read has the status
    ``damaged``, the reason in ``error.message``, and a warning is logged. No runs give an empty
    frame.
    """
    rows = [_flat_record(folder) for folder in run_folders(Path(results_dir), experiment)]
    return pd.DataFrame(rows)


def load_layers(results_dir: str | Path, experiment: str | None = None) -> pd.DataFrame:
    """All rows of all ``layers.csv``, with the columns ``experiment`` and ``run_id`` before them.

    Raises:
        RecordError: a table cannot be read.
    """
    tables = []
    for folder in run_folders(Path(results_dir), experiment):
        table = layer_table(folder)
        if (folder / LAYERS_FILE).exists():
            table.insert(0, "experiment", folder.parent.name)
            table.insert(1, "run_id", folder.name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def layer_table(folder: Path) -> pd.DataFrame:
    """The rows of one run's ``layers.csv``; an empty frame if it has none.

    Raises:
        RecordError: the table cannot be read.
    """
    path = folder / LAYERS_FILE
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_csv(path, dtype=_TEXTS).fillna(dict.fromkeys(_TEXTS, ""))
    except (ValueError, OSError) as error:
        raise RecordError(f"{path} is damaged: {error}. Remove the run's folder.") from error


def run_folders(results_dir: Path, experiment: str | None = None) -> Iterator[Path]:
    """Folders below ``results_dir`` that hold a record, by name."""
    pattern = f"{experiment or '*'}/*/{RECORD_FILE}"
    return (path.parent for path in sorted(results_dir.glob(pattern)))


def damaged_record(folder: Path, error: RecordError) -> dict[str, Any]:
    """What stands in for a record that cannot be read."""
    return {
        "run_id": folder.name,
        "experiment": folder.parent.name,
        "status": "damaged",
        "error": {"type": "RecordError", "message": str(error)},
    }


def _flat_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_record(folder)
    except RecordError as error:
        _log.warning("%s", error)
        record = damaged_record(folder, error)
    return {**flatten(record), "folder": str(folder)}
