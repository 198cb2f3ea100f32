"""What distinguishes runs: the parts of their configurations that differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from crvq.config import RunConfig
from crvq.config.strict import neutral_fields
from crvq.report.finetune_stages import finetune_stage
from crvq.report.notation import RATIO, base_name, show
from crvq.tracking.json_values import flatten

_ABSENT = "absent"
_PARAMS = "method_params."
_FINETUNE = "finetune"
_FEW = 3
"""So many values are shown even where fewer would tell rows apart."""
_SAID = frozenset({"method", "model", "model.name"})
"""Keys that the first part of a name says."""
_SYMBOLS = {RATIO: "λ"}
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


def run_labels(
    records: Sequence[Record], *, but: Collection[str] = (), asked: bool = True
) -> list[str]:
    """Return a short name for every record; the one way in which runs are named anywhere.

    ``CRVQ-1bit``, ``CRVQ-2bit · λ=0.02 → 0.0139``, ``AQLM 2x8 · finetune=block``: the name that
    ``run.name`` gave, else the preset's, else the layout in its paper's notation; then the values
    in which records of the same name differ. Values that they share are never named. λ is rounded
    to whole groups of channels: what was used instead always stands next to what was asked. A
    record without a configuration has its own ``label``.

    Args:
        records: all that are shown together.
        but: configuration keys that have a column of their own.
        asked: say what was used instead of what was asked where records do not differ in it.
    """
    kept = [_without(record, but) for record in records]
    bases = _base_names(kept)
    labels = list(bases)
    for base in dict.fromkeys(bases):
        same = [place for place, other in enumerate(bases) if other == base]
        shown = _differences([kept[place] for place in same], asked)
        for place, parts in zip(same, shown, strict=True):
            labels[place] = " · ".join([base, " ".join(parts)] if parts else [base])
    return [
        str(record.get("label") or label) for record, label in zip(records, labels, strict=True)
    ]


def _base_names(records: Sequence[Record]) -> list[str]:
    """Return the given name, the preset's or the layout's; with the model where there are more."""
    params = [_used_params(record) for record in records]
    methods = [str(record.get("method", "run")) for record in records]
    given = [((record.get("config") or {}).get("run") or {}).get("name") for record in records]
    names: list[str] = []
    found = methods
    # A preset's name stays only where what differs from it is said, so that names settle.
    while names != found:
        names, found = found, []
        for name, own, method in zip(names, params, methods, strict=True):
            alike = [other for other, its in zip(params, names, strict=True) if its == name]
            varied = {key for key in own if len({_json(other.get(key)) for other in alike}) > 1}
            found.append(base_name(method, own, varied))
    names = [str(own or name) for own, name in zip(given, names, strict=True)]
    models = [record.get("model") for record in records]
    if len({str(model) for model in models if model}) > 1:
        pairs = zip(names, models, strict=True)
        return [f"{name} ({model})" if model else name for name, model in pairs]
    return names


def _used_params(record: Record) -> dict[str, Any]:
    """Return the parameters that a budget chose, where one did; λ as it was asked."""
    params = dict((record.get("config") or {}).get("method_params") or {})
    used = record.get("effective") or {}
    return params | {key: value for key, value in used.items() if key != RATIO}


def _differences(records: Sequence[Record], asked: bool) -> list[list[str]]:
    """Return ``key=value`` for what distinguishes records of one name."""
    staged = _with_stages(records)
    differing = differing_values(staged)
    instead = [adjusted(record) for record in records]
    if asked:
        for values, used in zip(differing, instead, strict=True):
            if RATIO in used:
                values.setdefault(_PARAMS + RATIO, used[RATIO][0])
    keys = sorted({key for values in differing for key in values}, key=_rank)
    keys = [key for key in keys if key not in _SAID]
    kept = _fewest(keys, differing)
    names = short_names(keys)
    return [
        [
            f"{_SYMBOLS.get(names[key], names[key])}={show(values[key])}"
            + _arrow(used.get(key.removeprefix(_PARAMS)))
            for key in kept
            if key in values
        ]
        for values, used in zip(differing, instead, strict=True)
    ]


def _with_stages(records: Sequence[Record]) -> list[Record]:
    """Replace the keys of fine-tuning by its stages, where all keys follow from them."""
    configs = [dict(record.get("config") or {}) for record in records]
    tuning = [config.get(_FINETUNE) for config in configs]
    stages = [finetune_stage(flatten({"config": {_FINETUNE: one}})) for one in tuning]
    flats = [flatten(one or {}) for one in tuning]
    keys = [key for key in dict.fromkeys(key for flat in flats for key in flat) if decides(key)]
    pairs = list(zip(stages, flats, strict=True))
    free = [
        key
        for key in keys
        if decides(f"{_FINETUNE}.{key}")
        and len({(stage, _text(flat, key)) for stage, flat in pairs}) > len(set(stages))
    ]
    for config, stage, flat in zip(configs, stages, flats, strict=True):
        if any(flats):
            config[_FINETUNE] = stage
        config |= {f"{_FINETUNE}.{key}": flat[key] for key in free if key in flat}
    return [{**record, "config": config} for record, config in zip(records, configs, strict=True)]


def _fewest(keys: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return keys that tell rows apart as well as all of them; all of them if they are few.

    Keys that some rows lack came with a later version; they count where nothing else differs.
    """
    common = [key for key in keys if all(key in row for row in rows)]
    ordered = [*common, *(key for key in keys if key not in common)]
    whole = len({tuple(_text(row, key) for key in keys) for row in rows})
    if len(common) == len(keys) <= _FEW:
        return list(keys)
    kept: list[str] = []
    seen = 1
    for key in ordered:
        found = len({tuple(_text(row, one) for one in [*kept, key]) for row in rows})
        if found > seen:
            kept, seen = [*kept, key], found
        if seen == whole:
            break
    return kept


def _without(record: Record, but: Collection[str]) -> Record:
    """Return a record whose configuration lacks some keys."""

    def kept(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in values.items()
            if prefix + key not in but
        }

    return {**record, "config": kept(record.get("config") or {}, "")} if but else record


def _rank(key: str) -> tuple[int, str]:
    """Order keys: λ, the method's own, fine-tuning, then the rest."""
    if key == _PARAMS + RATIO:
        return 0, ""
    groups = (_PARAMS, _FINETUNE, "budget", "calibration")
    return 1 + next((n for n, group in enumerate(groups) if key.startswith(group)), 9), key


def _arrow(pair: tuple[Any, Any] | None) -> str:
    return "" if pair is None else f" → {show(pair[1], 3)}"


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
    return _json(flat[key]) if key in flat else _ABSENT


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
