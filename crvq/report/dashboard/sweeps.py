"""Which keys an experiment swept, and how its runs lie along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crvq.report.dashboard.presets import with_presets
from crvq.report.dashboard.runs import Run
from crvq.report.run_labels import differing_values, short_names, show


def swept(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """For every run (by its key) the configuration values in which an experiment's runs differ.

    Keys that presets set together are one key (`crvq.report.dashboard.presets`).

    Args:
        runs: of one experiment; those without a configuration get no values.
    """
    values = with_presets(runs, differing_values([run.record for run in runs]), is_seed)
    return {run.key: plain for run, plain in zip(runs, map(_plain, values), strict=True)}


def sweep_axes(values: dict[str, dict[str, Any]]) -> list[str]:
    """Swept keys, the best one for a horizontal axis first.

    Numbers make a better axis than names, many values a better one than few; a seed is never
    what a sweep is about, unless it is all that differs.

    Args:
        values: as :func:`swept` gives them.
    """
    keys = list(dict.fromkeys(key for row in values.values() for key in row))

    def rank(key: str) -> tuple[bool, bool, int]:
        column = [row[key] for row in values.values() if key in row]
        distinct = len({show(value) for value in column})
        return is_seed(key), distinct == 1 or not _is_numeric(column), -distinct

    return sorted(keys, key=rank)


def is_seed(key: str) -> bool:
    """Return whether a key only draws another sample: runs that differ in it belong to one line."""
    last = key.rpartition(".")[2]
    return last == "seed" or last.endswith("_seed")


def experiment_summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return an experiment for the page: its swept keys, best axis first, and each run's values.

    Returns:
        ``axes``: keys; ``names``: short ones for them; ``numeric``: those of them that are numbers
        wherever they are set; ``seeds``: those that are seeds; ``values``: by run key, the values
        by configuration key; ``runs``: run keys in order.
    """
    values = swept(runs)
    axes = sweep_axes(values)
    columns = {key: [row[key] for row in values.values() if key in row] for key in axes}
    return {
        "runs": [run.key for run in runs],
        "axes": axes,
        "names": short_names(axes),
        "numeric": [key for key in axes if _is_numeric(columns[key])],
        "seeds": [key for key in axes if is_seed(key)],
        "values": values,
    }


def _is_numeric(column: Sequence[object]) -> bool:
    """Return whether all values are numbers; null is none."""
    return bool(column) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in column
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers, texts and truth values as they are, all else as text."""
    simple = (int, float, str, bool, type(None))
    return {
        key: value if isinstance(value, simple) else show(value) for key, value in values.items()
    }
