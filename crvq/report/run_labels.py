"""What distinguishes runs: the parts of their configurations that differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from crvq.config import RunConfig
from crvq.config.strict import neutral_fields
from crvq.tracking.json_values import flatten

_ABSENT = "absent"
_ON = "on"
_LEADERS = {"method": "method", "method_params": "method", "model": "model.name"} | {
    "budget": "budget.name"
}
"""A group's name stands for the values that it brings along."""

_NEUTRAL = neutral_fields(RunConfig) - {"model.name", "budget.name"}

Record = dict[str, Any]


def differing_values(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For every record the configuration values in which the records differ, by dotted key.

    Keys that do not change results are left out, and so are values that follow from the choice
    of a model, method or budget which is itself among the keys. A part that is null in some
    records and has keys in others (``finetune.block``) is its own key, null or ``on``; its
    own keys are there only if they differ where it is on. Records without a configuration
    (jobs that failed before they had one) get no values and are not compared.
    """
    flats = [flatten(record.get("config") or {}) for record in records]
    switches = _mark_switches(flats)
    compared = [flat for flat in flats if flat]
    keys = list(dict.fromkeys(key for flat in compared for key in flat))
    keys = [key for key in keys if decides(key)]
    differing = [key for key in keys if _differs(key, compared, switches)]
    kept = [key for key in differing if not _follows(key, differing, compared)]
    return [{key: flat[key] for key in kept if key in flat} for flat in flats]


def run_labels(records: Sequence[Record]) -> list[str]:
    """Return a short name for every record: the values that set it apart from the others.

    A key is shortened to its last part where that is clear. What could not be used as asked is
    always there, with what was used instead: ``critical_ratio=0.02 → 0.0139``. The method comes
    first unless the values imply it (``method=gptvq``) or it is the same for all. A record's own
    ``label``, if it has one, wins.
    """
    differing = differing_values(records)
    shown = [
        values | {f"method_params.{name}": asked for name, (asked, _) in adjusted(record).items()}
        for record, values in zip(records, differing, strict=True)
    ]
    names = short_names(key for values in shown for key in values)
    labels = []
    for record, values in zip(records, shown, strict=True):
        used = adjusted(record)
        parts = []
        for key, value in values.items():
            instead = used.get(key.removeprefix("method_params."))
            arrow = "" if instead is None else f" → {show(instead[1], 3)}"
            parts.append(show(value) if key == "method" else f"{names[key]}={show(value)}{arrow}")
        labels.append(record.get("label") or " ".join(parts) or str(record.get("method", "run")))
    return labels


def marked_labels(records: Sequence[Record]) -> list[str]:
    """Return :func:`run_labels`, with a mark on records that were reused and not computed now."""
    labels = zip(records, run_labels(records), strict=True)
    return [f"{label} (reused)" if record.get("reused") else label for record, label in labels]


def decides(key: str) -> bool:
    """Return whether a configuration key changes the result, or is the label of one that does."""
    return not any(key == name or key.startswith(f"{name}.") for name in _NEUTRAL)


def effective_values(record: Record) -> dict[str, tuple[Any, Any]]:
    """Method parameters that the method reports on: what was asked, what was really used."""
    asked = (record.get("config") or {}).get("method_params") or {}
    used = record.get("effective") or {}
    return {name: (asked[name], used[name]) for name in used if name in asked}


def adjusted(record: Record) -> dict[str, tuple[Any, Any]]:
    """As :func:`effective_values`, but only what could not be used as asked."""
    return {
        name: (asked, used)
        for name, (asked, used) in effective_values(record).items()
        if show(asked) != show(used)
    }


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """A name for every configuration key: its last part, or all of it where others end alike.

    ``model.name`` is ``model``.
    """
    keys = list(dict.fromkeys(keys))
    last = Counter(key.split(".")[-1] for key in keys)
    names = {key: key.split(".")[-1] if last[key.split(".")[-1]] == 1 else key for key in keys}
    return {key: key.split(".")[0] if names[key] == "name" else names[key] for key in keys}


def show(value: object, digits: int = 6) -> str:
    """Return a configuration value as one would type it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _mark_switches(flats: Sequence[dict[str, Any]]) -> set[str]:
    """Set every part that is null elsewhere to ``on`` where it has keys; return those parts."""
    parents = [{key[:end] for key in flat for end in _dots(key)} for flat in flats]
    nulls = {key for flat in flats for key, value in flat.items() if value is None}
    switches = nulls & set().union(*parents)
    for flat, known in zip(flats, parents, strict=True):
        flat.update(dict.fromkeys(sorted(switches & known), _ON))
    return switches


def _dots(key: str) -> list[int]:
    return [place for place, character in enumerate(key) if character == "."]


def _differs(key: str, flats: Sequence[dict[str, Any]], switches: set[str]) -> bool:
    """Return whether records differ in a key; below a switch, whether those do that have it on."""
    if any(key[:end] in switches for end in _dots(key)):
        flats = [flat for flat in flats if key in flat]
    return len({_text(flat, key) for flat in flats}) > 1


def _follows(key: str, differing: Sequence[str], flats: Sequence[dict[str, Any]]) -> bool:
    """Return whether the value of ``key`` is the same wherever its group's leader is."""
    leader = _LEADERS.get(key.split(".")[0])
    if leader is None or leader == key or leader not in differing:
        return False
    pairs = {(_text(flat, leader), _text(flat, key)) for flat in flats}
    return len(pairs) == len({first for first, _ in pairs})


def _text(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key], sort_keys=True, default=str) if key in flat else _ABSENT
