"""The numbers that came out of a run, under names that can stand at an axis."""

from __future__ import annotations

from typing import Any

from crvq.report.dashboard.protocols import Protocol, protocol
from crvq.report.dashboard.runs import Run
from crvq.report.run_labels import Record
from crvq.tracking.json_values import flatten

_DESCRIBE_THE_RUN = (
    "config",
    "attempts",
    "schema_version",
    "seeds",
    "threads",
    "budget",
    "packages",
    "git",
    "error",
    "notes",
    "generations",
    "stage",
    "full_precision_bits",
    "added_evaluations",
)
_BIT_PARTS = ("codes", "codebooks", "scales", "permutation", "other", "codes_entropy")
_HAVE_OWN_NAMES = ("perplexity", "agreement", "zero_shot", "bits", "seconds")
_SCALED = {
    "peak_memory_bytes": ("peak memory (GiB)", 2.0**-30),
    "peak_gpu_memory_bytes": ("peak GPU memory (GiB)", 2.0**-30),
    "packed_bytes": ("packed size (MiB)", 2.0**-20),
}
QUANTIZED, FULL_PRECISION = ", quantized", ", full precision"


def outcomes(run: Run, names: dict[Protocol, str]) -> dict[str, float]:
    """Every number that a run's record and tables hold as a result, by a name for axes.

    Perplexities come first, then agreement and zero-shot scores, bits, loss, times and sizes.
    Sections that this version does not know are taken in as they are: every number in them is
    an outcome named by its path. NaN and infinity stay what they are. Bits by part are averages
    a quantized weight.

    Args:
        run: of any status.
        names: of datasets, as :func:`protocol_names` gives them for all runs together.
    """
    record = run.record
    found = {
        **_perplexities(record, names),
        **_agreement(record),
        **_zero_shot(record),
        **_bits(record),
        **_losses(run),
        **_seconds(record),
    }
    known = (*_DESCRIBE_THE_RUN, *_HAVE_OWN_NAMES)
    rest = {key: value for key, value in record.items() if key not in known}
    for path, value in flatten(rest).items():
        number = as_number(value)
        if number is not None:
            name, scale = _SCALED.get(path, (_name(path), 1.0))
            found[name] = number * scale
    return found


def total_seconds(record: Record) -> float | None:
    """Seconds of all stages together; None if none has been timed."""
    numbers = [as_number(value) for value in (record.get("seconds") or {}).values()]
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def as_number(value: object) -> float | None:
    """``value`` if it is a number; truth values and texts are not (but "NaN" and "Infinity" are).

    Sections that the record's schema does not know keep those as the names that JSON has for
    them (:func:`crvq.tracking.json_values.to_json`).
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return float(str(value)) if value in ("NaN", "Infinity", "-Infinity") else None


def _perplexities(record: Record, names: dict[Protocol, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for dataset, entry in (record.get("perplexity") or {}).items():
        name = names[protocol(dataset, entry)]
        pair = _pair(f"perplexity of {name}", entry)
        found.update(pair)
        if len(pair) == 2 and entry["full_precision"]:
            ratio = entry["quantized"] / entry["full_precision"]
            found[f"perplexity of {name}, ratio to full precision"] = ratio
        found.update(_pair(f"bits per byte of {name}", entry, "_bits_per_byte"))
    return found


def _agreement(record: Record) -> dict[str, float]:
    found: dict[str, float] = {}
    for dataset, entry in (record.get("agreement") or {}).items():
        for key, name in (
            ("kl_divergence", "KL divergence"),
            ("top1_agreement", "top-1 agreement"),
        ):
            value = as_number(entry.get(key))
            if value is not None:
                found[f"{name} on {dataset}"] = value
    return found


def _zero_shot(record: Record) -> dict[str, float]:
    """Scores by task and metric, and the average over tasks of metrics that all of them have."""
    found: dict[str, float] = {}
    tasks = record.get("zero_shot") or {}
    scores = {task: entry.get("metrics") or {} for task, entry in tasks.items()}
    for metric in dict.fromkeys(name for metrics in scores.values() for name in metrics):
        pairs = [_pair("", metrics[metric]) for metrics in scores.values() if metric in metrics]
        for which in (QUANTIZED, FULL_PRECISION):
            values = [pair[which] for pair in pairs if which in pair]
            if len(values) == len(scores) > 1:
                found[f"zero-shot average of {metric}{which}"] = sum(values) / len(values)
    for task, metrics in scores.items():
        for metric, entry in metrics.items():
            found.update(_pair(f"{task} {metric}", entry))
    return found


def _pair(name: str, entry: dict[str, Any], suffix: str = "") -> dict[str, float]:
    values = {
        name + QUANTIZED: as_number(entry.get(f"quantized{suffix}")),
        name + FULL_PRECISION: as_number(entry.get(f"full_precision{suffix}")),
    }
    return {key: value for key, value in values.items() if value is not None}


def _bits(record: Record) -> dict[str, float]:
    bits = record.get("bits") or {}
    weights = bits.get("quantized_weights")
    if not weights:
        return {}
    averages = {
        "bits a quantized weight": bits.get("average_quantized_weights"),
        "bits a weight, all weights": bits.get("average_all_weights"),
    }
    parts = {name: as_number(bits.get(name)) for name in _BIT_PARTS}
    shares = {
        f"bits: {name.replace('_', ' ')}": total / weights
        for name, total in parts.items()
        if total is not None
    }
    return {name: value for name, value in (averages | shares).items() if value is not None}


def _losses(run: Run) -> dict[str, float]:
    if "relative_loss" not in run.layers:
        return {}
    loss = run.layers["relative_loss"]
    return {
        "relative loss, mean of linears": float(loss.mean()),
        "relative loss, worst linear": float(loss.max()),
    }


def _seconds(record: Record) -> dict[str, float]:
    total = total_seconds(record)
    if total is None:
        return {}
    stages = {name: as_number(value) for name, value in record["seconds"].items()}
    named = {f"seconds: {name}": value for name, value in stages.items() if value is not None}
    return {"seconds, all stages": total, **named}


def _name(path: str) -> str:
    words = path.split(".")
    words[0] = {"effective": "used"}.get(words[0], words[0])
    return " ".join(word.replace("_", " ") for word in words)
