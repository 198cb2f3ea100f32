"""Where a run's record lies, also one that was written before a key was added."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.methods import method_names, method_params
from crvq.tracking.record_schema import RECORD_FILE, Record, RecordError, load_record
from crvq.tracking.run_id import run_id


def run_folder(config: RunConfig) -> Path:
    """``<results_dir>/<experiment>/<run_id>``, or the folder that ``eval_only`` names.

    A run whose configuration is the same today, but had another id when it began (a key has been
    added since, at its default), is found by its record.
    """
    if config.eval_only is not None:
        return finished_folder(config.eval_only)
    folder = Path(config.results_dir) / config.experiment / run_id(config)
    if (folder / RECORD_FILE).exists():
        return folder
    return _same_run(folder, run_id(config)) or folder


def finished_folder(path: str) -> Path:
    """The run's folder behind what a user gives: it, its ``checkpoint/``, or its record's file.

    Raises:
        ConfigError: there is no record.
    """
    given = Path(path).expanduser()
    tried = (given, given.parent)
    for folder in tried:
        if (folder / RECORD_FILE).is_file():
            return folder
    raise ConfigError(
        f"eval_only={path}: there is no {RECORD_FILE} in {' or '.join(map(str, tried))}; give the "
        "folder of a finished run, as in eval_only=results/EXPERIMENT/RUN_ID"
    )


def recorded_config(record: Record) -> RunConfig:
    """The typed configuration of a record.

    Raises:
        ConfigError: it is not one of this version's.
    """
    values = dict(record.config)
    if record.method not in method_names():
        raise ConfigError(f"the record {record.run_id} is of an unknown method, {record.method}")
    try:
        params = method_params(record.method).model_validate(values.get("method_params") or {})
        return RunConfig.model_validate({**values, "method_params": params})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3]
        )
        raise ConfigError(
            f"the configuration in the record {record.run_id} is not one of this version: {faults}"
        ) from error


def _same_run(folder: Path, identity: str) -> Path | None:
    """A folder beside ``folder`` whose record's configuration has this id today."""
    same = []
    for path in sorted(folder.parent.glob(f"{identity[:-12]}*/{RECORD_FILE}")):
        try:
            record = load_record(path)
            if run_id(recorded_config(record)) == identity:
                same.append((record.status == "complete", path.parent))
        except (RecordError, ConfigError):
            continue
    return max(same)[1] if same else None
