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
    """All rows of all ``layers.csv``, after the columns ``experiment``, ``run_id`` and ``folder``.

    A run is told by its ``folder``, as in :func:`load_records`: the same command on a CPU and on a
    GPU has one id and two results. A table that cannot be read is left out and a warning logged,
    so that one damaged file does not cost all the others.
    """
    tables = []
    for folder in run_folders(Path(results_dir), experiment):
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
    """The rows of one run's ``layers.csv``; an empty frame if it has none.

    Raises:
        RecordError: the table cannot be read.
    """
    path = folder / LAYERS_FILE
    if not path.exists():
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
