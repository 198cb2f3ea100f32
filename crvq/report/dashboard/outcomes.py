"""The numbers that came out of a run, under names that can stand at an axis."""

from __future__ import annotations

from crvq.report.dashboard.protocols import ProtocolNames
from crvq.report.dashboard.quality import as_number, quality
from crvq.report.dashboard.runs import Run
from crvq.report.run_labels import Record
from crvq.tracking.json_values import flatten
from crvq.weights.bits import BIT_PARTS

_DESCRIBE_THE_RUN = (
    "config",
    "algorithm",
    "reused",
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
_BIT_PARTS = (*BIT_PARTS, "codes_entropy")
_HAVE_OWN_NAMES = ("perplexity", "agreement", "zero_shot", "bits", "seconds")
_SCALED = {
    "peak_memory_bytes": ("peak memory (GiB)", 2.0**-30),
    "peak_gpu_memory_bytes": ("peak GPU memory (GiB)", 2.0**-30),
    "packed_bytes": ("packed size (MiB)", 2.0**-20),
}


def outcomes(run: Run, names: ProtocolNames) -> dict[str, float]:
    """Return every number that a run's record and tables hold as a result, by a name for axes.

    Perplexities come first, then agreement and zero-shot scores, loss, bits, times and sizes.
    Sections that this version does not know are taken in as they are: every number in them is
    an outcome named by its path. NaN and infinity stay what they are. Bits by part are averages
    a quantized weight.

    Args:
        run: of any status.
        names: of datasets and tasks, as :func:`protocol_names` gives them for all runs together.
    """
    record = run.record
    found = {measure.name: measure.value for measure in quality(run, names)}
    found |= {**_bits(record), **_seconds(record)}
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


def _bits(record: Record) -> dict[str, float]:
    bits = record.get("bits") or {}
    weights = bits.get("quantized_weights")
    if not weights:
        return {}
    averages = {
        "bits per quantized weight": bits.get("average_quantized_weights"),
        "bits per weight, all weights": bits.get("average_all_weights"),
    }
    parts = {name: as_number(bits.get(name)) for name in _BIT_PARTS}
    shares = {
        f"bits: {name.replace('_', ' ')}": total / weights
        for name, total in parts.items()
        if total is not None
    }
    return {name: value for name, value in (averages | shares).items() if value is not None}


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
