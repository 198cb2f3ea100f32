"""What came out of a run that says how good its model is, under names that can stand at an axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crvq.report.dashboard.protocols import ProtocolNames, protocol
from crvq.report.dashboard.runs import Run
from crvq.report.run_labels import Record

QUANTIZED, FULL_PRECISION = ", quantized", ", full precision"
_AGREEMENT = {
    "kl_divergence": ("KL divergence", True),
    "top1_agreement": ("top-1 agreement", False),
}
"""Names, and whether lower is better."""


@dataclass(frozen=True)
class Measure:
    """One number."""

    name: str
    value: float
    lower_is_better: bool
    of_quantized: bool = True
    """False for full precision's: a reference, not an outcome of quantization."""


def quality(run: Run, names: ProtocolNames) -> list[Measure]:
    """Perplexities, agreement, zero-shot scores and losses of linears, most informative first.

    Numbers that depend on different texts, contexts, tasks or limits never share a name.

    Args:
        run: of any status.
        names: as :func:`protocol_names` gives them for all runs together.
    """
    return [
        *_perplexities(run.record, names),
        *_agreement(run.record, names),
        *_zero_shot(run.record, names),
        *_losses(run),
    ]


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


def _perplexities(record: Record, names: ProtocolNames) -> Iterator[Measure]:
    for dataset, entry in (record.get("perplexity") or {}).items():
        name = names.perplexity[protocol(dataset, entry)]
        pair = list(_pair(f"perplexity of {name}", entry, lower_is_better=True))
        yield from pair
        if len(pair) == 2 and entry["full_precision"]:
            ratio = entry["quantized"] / entry["full_precision"]
            yield Measure(f"perplexity of {name}, ratio to full precision", ratio, True)
        yield from _pair(
            f"bits per byte of {name}", entry, lower_is_better=True, suffix="_bits_per_byte"
        )


def _agreement(record: Record, names: ProtocolNames) -> Iterator[Measure]:
    for dataset, entry in (record.get("agreement") or {}).items():
        text = names.agreement[protocol(dataset, entry)]
        for key, (name, lower_is_better) in _AGREEMENT.items():
            value = as_number(entry.get(key))
            if value is not None:
                yield Measure(f"{name} on {text}", value, lower_is_better)


def _zero_shot(record: Record, names: ProtocolNames) -> Iterator[Measure]:
    """Averages over tasks of metrics that all of them have, then scores by task and metric."""
    tasks = names.tasks(record)
    scores = {label: entry.get("metrics") or {} for label, entry in tasks.items()}
    over = names.task_sets.get(tuple(sorted(tasks)), "")
    for metric in dict.fromkeys(name for metrics in scores.values() for name in metrics):
        entries = [metrics[metric] for metrics in scores.values() if metric in metrics]
        if len(entries) == len(scores) > 1:
            yield from _pair(f"zero-shot average of {metric}{over}", _mean(entries))
    for label, metrics in scores.items():
        for metric, entry in metrics.items():
            yield from _pair(f"{label}: {metric}", entry)


def _mean(entries: list[dict[str, Any]]) -> dict[str, float]:
    """Both models' means, where every task has a number."""
    found = {}
    for which in ("quantized", "full_precision"):
        values = [as_number(entry.get(which)) for entry in entries]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            found[which] = sum(known) / len(known)
    return found


def _pair(
    name: str, entry: dict[str, Any], *, lower_is_better: bool = False, suffix: str = ""
) -> Iterator[Measure]:
    for which, key in ((QUANTIZED, "quantized"), (FULL_PRECISION, "full_precision")):
        value = as_number(entry.get(key + suffix))
        if value is not None:
            yield Measure(name + which, value, lower_is_better, which == QUANTIZED)


def _losses(run: Run) -> Iterator[Measure]:
    if "relative_loss" in run.layers:
        loss = run.layers["relative_loss"]
        yield Measure("relative loss, mean of linears", float(loss.mean()), True)
        yield Measure("relative loss, worst linear", float(loss.max()), True)
