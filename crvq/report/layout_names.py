"""Names of settings: runs that differ in nothing but their seeds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from crvq.report.finished_runs import CONFIG, SEEDS
from crvq.report.notation import RATIO, layout_notation, method_name
from crvq.report.run_labels import Record, run_labels

__all__ = ["layout_name", "method_name", "name_settings"]

_PARAMS = f"{CONFIG}method_params."


def name_settings(settings: pd.DataFrame, but: Collection[str] = ()) -> list[str]:
    """Return a name for every row, as :func:`run_labels` names the rows of each model.

    Args:
        settings: of :func:`crvq.report.settings.over_seeds`.
        but: columns of the configuration that have a column of their own.
    """
    if settings.empty:
        return []
    left_out = {key.removeprefix(CONFIG) for key in (*but, *SEEDS)}
    names = pd.Series("", index=settings.index)
    for _, group in settings.groupby("model", sort=False):
        records = [_record(row) for row in group.to_dict("records")]
        labels = run_labels(records, but=left_out, asked=False)
        names.update(pd.Series(labels, index=group.index))
    return names.tolist()


def layout_name(row: dict[Any, Any], *, ratio: bool = True) -> str:
    """Return the method and its layout (:func:`layout_notation`) of a row of settings."""
    settings, used = row["settings"], row["effective_values"]
    params = {
        key.removeprefix(_PARAMS): value
        for key, value in settings.items()
        if key.startswith(_PARAMS)
    }
    chosen = {key: value for key, value in used.items() if key != RATIO}
    return layout_notation(str(row["method"]), params | chosen, ratio=ratio)


def _record(row: dict[Any, Any]) -> Record:
    """Return the row as a record that :func:`run_labels` reads."""
    config: dict[str, Any] = {"method_params": {}}
    for key, value in row["settings"].items():
        if key.startswith(_PARAMS):
            config["method_params"][key.removeprefix(_PARAMS)] = value
            continue
        *above, last = key.removeprefix(CONFIG).split(".")
        place = config
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return {"method": row["method"], "config": config, "effective": row["effective_values"]}
