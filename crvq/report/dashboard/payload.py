"""Everything that the page shows, as one value that JSON can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crvq.report.dashboard.finetune_curves import finetune_curves
from crvq.report.dashboard.layer_maps import MEASURES, layer_maps
from crvq.report.dashboard.liveness import progress, shown_status
from crvq.report.dashboard.outcomes import outcomes, total_seconds
from crvq.report.dashboard.protocols import Protocol, ProtocolNames, protocol, protocol_names
from crvq.report.dashboard.published_points import published_points
from crvq.report.dashboard.quality import quality
from crvq.report.dashboard.runs import Run
from crvq.report.dashboard.settings import finetuned, same_settings
from crvq.report.dashboard.sweeps import experiment_summary
from crvq.report.dashboard.zero_shot_scores import zero_shot_scores
from crvq.report.published import PublishedError
from crvq.report.run_labels import Record, effective_values, show
from crvq.tracking.json_values import flatten, to_json

_TRACEBACK_LINES = 15
_PLACE = ("host", "platform", "cpu", "device", "threads", "git", "packages", "seeds")


def dashboard_payload(runs: Sequence[Run], results_dir: Path) -> dict[str, Any]:
    """Return what the page's scripts draw.

    Args:
        runs: as :func:`crvq.report.dashboard.runs.load_runs` gives them.
        results_dir: where they lie; may hold ``published.csv``.

    Returns:
        ``runs``: one value per run (see the code); ``experiments``: by name, as
        :func:`experiment_summary` gives them; ``measures``: names of layer maps; ``quality``:
        outcomes that say how good a quantized model is, and whether lower is better; ``published``:
        points of other papers; ``faults``: files that could not be read, next to those of runs;
        ``results`` and ``made``: which folder, and when. Infinity and
        NaN are the strings that :func:`crvq.tracking.json_values.to_json` makes of them.
    """
    names = list(dict.fromkeys(run.experiment for run in runs))
    protocols = protocol_names(run.record for run in runs)
    experiments = {
        name: experiment_summary([run for run in runs if run.experiment == name]) for name in names
    }
    payload = {
        "results": str(results_dir),
        "made": datetime.now(UTC),
        "runs": [
            {**_run(run, runs, protocols), "setting": setting}
            for run, setting in zip(runs, same_settings(runs), strict=True)
        ],
        "experiments": experiments,
        "measures": MEASURES,
        "quality": {
            measure.name: measure.lower_is_better
            for run in runs
            for measure in quality(run, protocols)
            if measure.of_quantized
        },
        **_published(results_dir),
    }
    values: dict[str, Any] = to_json(payload)
    return values


def _published(results_dir: Path) -> dict[str, Any]:
    """Points of other papers; a table that cannot be read is a fault to show, not an end."""
    try:
        return {"published": published_points(results_dir), "faults": []}
    except PublishedError as error:
        return {"published": [], "faults": [str(error)]}


def _run(run: Run, runs: Sequence[Run], protocols: ProtocolNames) -> dict[str, Any]:
    record = run.record
    under_way = progress(run, runs) if run.status in {"running", "stopped"} else None
    return {
        "key": run.key,
        "run_id": run.folder.name,
        "experiment": run.experiment,
        "label": run.label,
        "folder": str(run.folder),
        "reference": run.reference,
        "status": shown_status(run, runs),
        "model": record.get("model"),
        "model_note": record.get("model_note"),
        "method": record.get("method"),
        "sweep": record.get("sweep"),
        "started": record.get("started"),
        "finished": record.get("finished"),
        "resumes": record.get("resumes", 0),
        "notes": record.get("notes") or [],
        "faults": run.faults,
        "error": _error(record.get("error")),
        "bits": record.get("bits"),
        "full_precision_bits": record.get("full_precision_bits"),
        "perplexity": _perplexities(record, protocols.perplexity),
        "seconds": record.get("seconds") or {},
        "total_seconds": total_seconds(record),
        "peak_memory_bytes": record.get("peak_memory_bytes"),
        "effective": {key: list(pair) for key, pair in effective_values(record).items()},
        "outcomes": outcomes(run, protocols),
        "config": _shown(record.get("config") or {}),
        "place": _shown({key: record[key] for key in _PLACE if record.get(key) is not None}),
        "zero_shot": zero_shot_scores(record, protocols),
        "agreement": _agreement(record, protocols.agreement),
        "generations": record.get("generations") or [],
        "layers": layer_maps(run.layers),
        "finetune": finetune_curves(run.finetune),
        "finetuned": finetuned(record),
        "progress": under_way,
    }


def _agreement(record: Record, names: Mapping[Protocol, str]) -> dict[str, Any]:
    entries = record.get("agreement") or {}
    return {names[protocol(dataset, entry)]: entry for dataset, entry in entries.items()}


def _perplexities(record: Record, names: Mapping[Protocol, str]) -> list[dict[str, Any]]:
    """Return a value for each dataset, under a name that only comparable numbers share."""
    return [
        {
            "name": names[protocol(dataset, entry)],
            "context": entry.get("context"),
            "tokens": entry.get("tokens"),
            "about": entry.get("protocol"),
            "quantized": entry.get("quantized"),
            "full_precision": entry.get("full_precision"),
        }
        for dataset, entry in (record.get("perplexity") or {}).items()
    ]


def _error(error: dict[str, Any] | None) -> dict[str, Any] | None:
    if not error:
        return None
    tail = [str(line) for line in error.get("traceback") or []][-_TRACEBACK_LINES:]
    return {"type": error.get("type"), "message": error.get("message"), "traceback": tail}


def _shown(values: dict[str, Any]) -> dict[str, str]:
    return {key: show(value) for key, value in flatten(values).items()}
