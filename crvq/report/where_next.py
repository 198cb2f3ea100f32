"""Where a run's record lies, and what to run next."""

from __future__ import annotations

from pathlib import Path

from crvq.report.run_labels import Record
from crvq.tracking.csv_files import LAYERS_FILE
from crvq.tracking.log import LOG_FILE
from crvq.tracking.record_schema import RECORD_FILE
from crvq.tracking.trackio_run import trackio_folder


def run_folder(record: Record) -> Path:
    """``results/<experiment>/<run_id>`` of a record."""
    results = (record.get("config") or {}).get("results_dir", "results")
    return Path(results) / record["experiment"] / record["run_id"]


def where_next(record: Record) -> list[str]:
    """Lines for the terminal: the record's files, then commands worth running next."""
    folder = run_folder(record)
    lines = [f"record:  {folder / RECORD_FILE}  (with {LAYERS_FILE}, {LOG_FILE})"]
    if record.get("status") != "complete":
        return [
            *lines,
            "next:    the same command again resumes after the last completed block; "
            "force=true starts over",
        ]
    lines.append(f"next:    {_sweep_command(record)}")
    tracking = (record.get("config") or {}).get("tracking") or {}
    if tracking.get("mode") == "offline" and (folder / "wandb").is_dir():
        lines.append(f"         wandb sync {folder}/wandb/offline-run-*")
    watched = trackio_folder(folder.parents[1])
    if tracking.get("backend") == "trackio" and watched.is_dir():
        project = tracking.get("project")
        lines.append(f"         TRACKIO_DIR={watched} trackio show --project {project}")
    return lines


def _sweep_command(record: Record) -> str:
    config = record.get("config") or {}
    asked = (config.get("method_params") or {}).get("critical_ratio")
    if asked is None:
        return "the same command with -m seed=0,1,2"
    ratios = sorted({0.0, float(asked), 2 * float(asked) or 0.02})
    listed = ",".join(f"{ratio:g}" for ratio in ratios if ratio <= 1)
    return f"the same command with -m {record['method']}.critical_ratio={listed}"
