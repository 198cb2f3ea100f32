"""Complete runs as one tidy frame: what was set, what came out."""

from __future__ import annotations

import json
from typing import Any, get_args

import pandas as pd
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crvq.config import RunConfig
from crvq.errors import CrvqError
from crvq.report.perplexity_columns import QUANTIZED, add_perplexities
from crvq.report.zero_shot_columns import ACCURACY, add_accuracies
from crvq.tracking.json_values import flatten
from crvq.tracking.run_id import NOT_IDENTITY
from crvq.weights.bits import BIT_PARTS

CONFIG = "config."
SEEDS = ("config.seed", "config.calibration.seed", "config.calibration.shuffle_seed")
"""Runs that differ in nothing but these are repetitions of one setting."""
DEVICE = "config.device"
_LABELS = ("config.model.note", "config.budget.name")
_SECONDS = "seconds."
_OPTIONAL = (
    "model_note",
    "device",
    "full_precision_bits",
    "bits.quantized_weights",
    *(f"bits.{part}" for part in BIT_PARTS),
)
"""Columns that tables rely on and an old record may lack."""


def finished_runs(records: pd.DataFrame) -> pd.DataFrame:
    """The complete runs of ``records``, once each.

    A run that several experiments hold (the same command under two names) is one row with the
    values updated last; ``experiment`` names them all. Of runs with the same configuration and
    seeds on the same kind of device (before and after a change of the code) only the latest is
    kept. Beside the columns of
    :func:`crvq.report.records.load_records` there are

    - ``perplexity: <protocol>`` and ``full precision: <protocol>`` (:func:`add_perplexities`),
    - ``accuracy: <task>`` and ``zero-shot average`` (:func:`add_accuracies`),
    - ``bits``, ``bits_all``: a weight, over quantized weights and over all; ``model_bytes``,
    - ``seconds``: of the whole run,
    - ``setting``: equal for runs with equal configurations on the same kind of device, but for
      their seeds and what is evaluated. Keys that an older record lacks count as their default.

    Args:
        records: as ``load_records`` gives them; may be empty.
    """
    if records.empty or "status" not in records:
        return pd.DataFrame()
    runs = records[records["status"] == "complete"].reset_index(drop=True)
    if runs.empty:
        return pd.DataFrame()
    absent = [name for name in _OPTIONAL if name not in runs]
    runs = runs.assign(**dict.fromkeys(absent))
    # The same command on a CPU and on a GPU has one id and two results.
    keys = ["run_id", "device"]
    runs["device"] = runs["device"].astype(object).where(runs["device"].notna(), "")
    names = runs.groupby(keys)["experiment"].agg(lambda found: ", ".join(sorted(set(found))))
    order = dict.fromkeys(zip(runs["run_id"], runs["device"], strict=True))
    # Of a run in two experiments one may have been evaluated and the other not: last() fills gaps.
    runs = runs.sort_values("updated", kind="stable").groupby(keys, sort=False).last()
    runs = runs.loc[list(order)].copy().reset_index()  # last() left a block a column
    runs["experiment"] = [names[one] for one in zip(runs["run_id"], runs["device"], strict=True)]
    runs["device"] = runs["device"].replace({"": None})
    runs = add_accuracies(add_perplexities(_on_device(_with_defaults(runs))))
    added = {
        "setting": [setting_key(row) for row in runs.to_dict("records")],
        "bits": _column(runs, "bits.average_quantized_weights"),
        "bits_all": _column(runs, "bits.average_all_weights"),
        "model_bytes": _column(runs, "bits.average_all_weights")
        * _column(runs, "bits.all_weights")
        / 8,
        "seconds": runs[[name for name in runs if str(name).startswith(_SECONDS)]].sum(axis=1),
    }
    # An unfinished run beside them leaves a column named as the section that it has not reached.
    runs = runs.drop(columns=[name for name in added if name in runs])
    return _latest(pd.concat([runs, pd.DataFrame(added, index=runs.index)], axis=1))


def quantized_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of all methods but ``full_precision``, which is every run's own baseline."""
    return runs if runs.empty else runs[runs["method"] != "full_precision"]


def setting_key(row: dict[Any, Any], but: tuple[str, ...] = ()) -> str:
    """The identity of a run's setting as canonical JSON: all that decides its quantized model.

    Args:
        row: of :func:`finished_runs`.
        but: configuration columns (``config.method_params.critical_ratio``) to leave out.
    """
    left_out = {*SEEDS, *_LABELS, *but}
    kept = {key: value for key, value in settings_of(row).items() if key not in left_out}
    return json.dumps(kept, sort_keys=True, default=str)


def settings_of(row: dict[Any, Any]) -> dict[str, Any]:
    """Configuration columns of a row that have a value and decide the quantized model."""
    return {
        str(key): int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in row.items()
        if str(key).startswith(CONFIG)
        and str(key).split(".")[1] not in NOT_IDENTITY
        and not _missing(value)
    }


def _on_device(runs: pd.DataFrame) -> pd.DataFrame:
    """The kind of device that a run came to in place of the one asked for (``auto``)."""
    asked = runs[DEVICE] if DEVICE in runs else ["auto"] * len(runs)
    pairs = zip(runs["device"], asked, strict=True)
    kinds = [str(want if _missing(seen) else seen).split(":")[0] for seen, want in pairs]
    return runs.assign(**{DEVICE: kinds})


def _latest(runs: pd.DataFrame) -> pd.DataFrame:
    """One run for each setting and seeds: the last updated of those that were evaluated."""
    scores = [name for name in runs if str(name).startswith((QUANTIZED, ACCURACY))]
    evaluated = runs[scores].notna().any(axis=1)
    ages = pd.DataFrame({"evaluated": evaluated, "updated": runs["updated"]})
    order = ages.sort_values(["evaluated", "updated"], kind="stable").index
    keys = ["setting", *(name for name in SEEDS if name in runs)]
    kept = runs.loc[order, keys].drop_duplicates(keep="last").index
    return runs.loc[sorted(kept)].reset_index(drop=True).copy()


def _with_defaults(runs: pd.DataFrame) -> pd.DataFrame:
    """Keys that came after a record was written, at what they were before: their default."""
    defaults = {CONFIG + key: value for key, value in _defaults(RunConfig).items()}
    runs = runs.copy()
    for key, value in defaults.items():
        if key in runs and value is not None:
            runs[key] = [value if _missing(seen) else seen for seen in runs[key]]
    keys = [str(name) for name in runs if str(name).startswith(f"{CONFIG}method_params.")]
    for method in runs["method"].unique():
        rows = runs["method"] == method
        uneven = [key for key in keys if 0 < runs.loc[rows, key].notna().sum() < rows.sum()]
        for name, value in (_method_defaults(str(method)) if uneven else {}).items():
            column = f"{CONFIG}method_params.{name}"
            if column in uneven and value is not None:
                runs[column] = [
                    value if own and _missing(seen) else seen
                    for own, seen in zip(rows, runs[column], strict=True)
                ]
    return runs


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Default of every key that has one, dotted."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            values = default.model_dump() if isinstance(default, BaseModel) else default
            found.update(flatten({name: values}))
            continue
        section = _section(field)
        if section is not None:
            found.update({f"{name}.{key}": value for key, value in _defaults(section).items()})
    return found


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _method_defaults(method: str) -> dict[str, Any]:
    from crvq.methods import method_params  # torch: seconds, and only here needed

    try:
        return _defaults(method_params(method))
    except CrvqError:  # a method from outside the package
        return {}


def _column(runs: pd.DataFrame, name: str) -> pd.Series:
    if name not in runs:
        return pd.Series(float("nan"), index=runs.index)
    return runs[name].astype(float)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)
