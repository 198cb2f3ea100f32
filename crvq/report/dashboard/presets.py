"""Presets on an axis: keys that a choice of method or fine-tuning sets together become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from crvq.report.dashboard.runs import Run
from crvq.report.finetune_stages import finetune_stage
from crvq.report.layout_names import layout_name
from crvq.report.records import flat_record
from crvq.report.run_labels import Record, run_labels, show
from crvq.tracking.json_values import flatten

LAYOUT = "layout"
FINETUNE = "finetune"
_METHOD, _PARAMS = "method", "method_params."
_LEAST_KEYS = 3
_LEAST_COMBINATIONS = 3


def with_presets(
    runs: Sequence[Run], values: Sequence[dict[str, Any]], is_seed: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """``values`` with the keys of a preset replaced by one key that names it.

    ``method=crvq_paper,crvq_1bit,aqlm`` differs in eight parameters, none of which is what the
    sweep was about. Three keys or more of one part of the configuration, in three combinations
    or more, count as presets where they make no grid: no more than half of those that they could.

    Args:
        runs: of one experiment.
        values: the values in which they differ, by key, one row per run.
        is_seed: whether a key only draws another sample.
    """
    for name, prefixes, named in _FAMILIES:
        keys = list(dict.fromkeys(key for row in values for key in row))
        family = [key for key in keys if key.split(".")[0] in prefixes and not is_seed(key)]
        if len(family) < _LEAST_KEYS or _is_grid(values, family):
            continue
        texts = named([run.record if row else {} for run, row in zip(runs, values, strict=True)])
        values = [
            {name: text, **{key: value for key, value in row.items() if key not in family}}
            if row
            else row
            for row, text in zip(values, texts, strict=True)
        ]
    return [_with_own_keys_in_method(row, _everywhere(values)) for row in values]


def _everywhere(values: Sequence[dict[str, Any]]) -> set[str]:
    """Keys that all runs with a configuration set."""
    rows = [set(row) for row in values if row]
    return set.intersection(*rows) if rows else set()


def _with_own_keys_in_method(row: dict[str, Any], everywhere: set[str]) -> dict[str, Any]:
    """Where methods differ, what only some of them have says which variant of the method it is."""
    if _METHOD not in row:
        return row
    own = [key for key in row if key.startswith(_PARAMS) and key not in everywhere]
    variant = [f"{key.removeprefix(_PARAMS)}={show(row[key])}" for key in own]
    kept = {key: value for key, value in row.items() if key not in own}
    return {**kept, _METHOD: " ".join([str(row[_METHOD]), *variant])}


def _is_grid(values: Sequence[dict[str, Any]], family: Sequence[str]) -> bool:
    """Return whether the keys vary by themselves; so few combinations could be anything."""
    seen = {tuple(show(row.get(key)) for key in family) for row in values if row}
    if len(seen) < _LEAST_COMBINATIONS:
        return True
    possible = math.prod(len({parts[place] for parts in seen}) for place in range(len(family)))
    return 2 * len(seen) > possible


def _layouts(records: Sequence[Record]) -> list[str]:
    """Return the method's layout, then what distinguishes runs of one layout."""
    names = [
        layout_name(flat_record({**record, "method": record.get("method")}, ""))
        for record in records
    ]
    for name in set(names):
        same = [place for place, other in enumerate(names) if other == name]
        parts = [_method_alone(records[place]) for place in same]
        for place, label, part in zip(same, run_labels(parts), parts, strict=True):
            if label != part.get("method"):
                names[place] = f"{name} · {label}"
    return names


def _method_alone(record: Record) -> Record:
    config = record.get("config") or {}
    kept = {key: config[key] for key in ("method", "method_params") if key in config}
    return {"method": record.get("method"), "config": kept}


def _stages(records: Sequence[Record]) -> list[str]:
    """Stages of fine-tuning, then what distinguishes runs of the same stages."""
    stages = [finetune_stage(flatten({"config": record.get("config") or {}})) for record in records]
    for stage in set(stages):
        same = [place for place, other in enumerate(stages) if other == stage]
        parts = [
            {"method": stage, "config": {FINETUNE: _finetune(records[place])}} for place in same
        ]
        for place, label in zip(same, run_labels(parts), strict=True):
            stages[place] = stage if label == stage else f"{stage} · {label}"
    return stages


def _finetune(record: Record) -> dict[str, Any]:
    return dict((record.get("config") or {}).get(FINETUNE) or {})


_FAMILIES: tuple[tuple[str, frozenset[str], Callable[[Sequence[Record]], list[str]]], ...] = (
    (LAYOUT, frozenset({"method", "method_params"}), _layouts),
    (FINETUNE, frozenset({FINETUNE}), _stages),
)
