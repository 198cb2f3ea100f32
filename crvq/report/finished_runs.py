"""Complete runs as one tidy frame: one row per record, with what was set and what came out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from crvq.report.perplexity_columns import QUANTIZED, add_perplexities
from crvq.report.records import origin
from crvq.report.run_labels import decides
from crvq.report.zero_shot_columns import ACCURACY, add_accuracies
from crvq.weights.bits import BIT_PARTS

CONFIG = "config."
SEEDS = ("config.seed", "config.calibration.seed", "config.calibration.shuffle_seed")
"""Runs that differ in nothing but these are repetitions of one setting."""
DEVICE = "config.device"
ORIGIN = "origin"
"""Column that says which rows were not computed here: host, device and date of shipped records."""
_LABELS = ("config.budget.name",)
_SECONDS = "seconds."
_OPTIONAL = (
    "model_note",
    "device",
    "full_precision_bits",
    "bits.quantized_weights",
    *(f"bits.{part}" for part in BIT_PARTS),
)
"""Columns that tables rely on and a record may lack."""


def finished_runs(records: pd.DataFrame) -> pd.DataFrame:
    """Return the complete runs of ``records``, one row per record.

    Values of different records are never merged. Of a run id that the user's own results and the
    shipped ones hold, the user's own is kept. Runs of an older algorithm revision are left out
    (:func:`older_revisions` lists them). Next to the columns of
    :func:`crvq.report.records.load_records` there are

    - ``perplexity: <protocol>`` and ``full precision: <protocol>`` (:func:`add_perplexities`),
    - ``accuracy: <task>`` and ``zero-shot average`` (:func:`add_accuracies`),
    - ``bits``, ``bits_all``: per weight, over quantized weights and over all; ``model_bytes``,
    - ``seconds``: of the whole run,
    - ``origin``: host, device and date of a shipped record; empty for the user's own,
    - ``setting``: equal for runs with equal configurations on the same kind of device, except for
      their seeds and what is evaluated.

    Args:
        records: as ``load_records`` gives them; may be empty.
    """
    runs = _complete(records)
    if runs.empty:
        return runs
    runs = runs[~_is_older(runs)]
    runs = runs.sort_values("started", kind="stable").reset_index(drop=True)  # whatever their ids
    absent = [name for name in _OPTIONAL if name not in runs]
    runs = runs.assign(**dict.fromkeys(absent))
    runs = add_accuracies(add_perplexities(_on_device(runs)))
    rows: list[dict[Any, Any]] = runs.to_dict("records")
    added = {
        "setting": [setting_key(row["settings"]) for row in rows],
        ORIGIN: [f"reference: {origin(row)}" if row["reference"] else "" for row in rows],
        "bits": _column(runs, "bits.average_quantized_weights"),
        "bits_all": _column(runs, "bits.average_all_weights"),
        "model_bytes": _column(runs, "bits.average_all_weights")
        * _column(runs, "bits.all_weights")
        / 8,
        "seconds": runs[[name for name in runs if str(name).startswith(_SECONDS)]].sum(axis=1),
    }
    # An unfinished run among them leaves a column named as the section that it has not reached.
    runs = runs.drop(columns=[name for name in added if name in runs])
    return pd.concat([runs, pd.DataFrame(added, index=runs.index)], axis=1).copy()


def older_revisions(records: pd.DataFrame) -> pd.DataFrame:
    """Return the complete runs that an older revision of their algorithm made.

    Older is a run whose method or solver has a lower revision than another record here has.

    Args:
        records: of :func:`crvq.report.records.load_records`.
    """
    runs = _complete(records)
    return runs if runs.empty else runs[_is_older(runs)]


def older_note(older: pd.DataFrame | None, experiments: Collection[str] = ()) -> list[str]:
    """Return one line on the runs that were left out; no line if there are none.

    Args:
        older: of :func:`older_revisions`; None says that there are none.
        experiments: only the runs of these; all by default.
    """
    if older is None or older.empty:
        return []
    if experiments:
        older = older[older["experiment"].isin(experiments)]
    if older.empty:
        return []
    names = ", ".join(sorted(set(older["experiment"])))
    which = "1 run" if len(older) == 1 else f"{len(older)} runs"
    return [
        f"Left out: {which} of an older algorithm revision ({names}). Run the same commands again "
        "to compute them with the current one."
    ]


def distinct(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one run for each setting and seeds.

    The same run may lie in several experiments. The user's own goes before a shipped one, then
    the record with most measurements, then the latest.

    Args:
        runs: of :func:`finished_runs`; may be empty.
    """
    if runs.empty:
        return runs
    scores = [name for name in runs if str(name).startswith((QUANTIZED, ACCURACY))]
    ranks = pd.DataFrame(
        {
            "own": ~runs["reference"].astype(bool),
            "measured": runs[scores].notna().sum(axis=1),
            "updated": runs["updated"],
            "setting": runs["setting"],
            "seeds": [
                str([row["settings"].get(name) for name in SEEDS]) for _, row in runs.iterrows()
            ],
        }
    )
    ordered = ranks.sort_values(["own", "measured", "updated"], kind="stable")
    kept = ordered.drop_duplicates(["setting", "seeds"], keep="last").index
    return runs.loc[sorted(kept)].reset_index(drop=True)


def of_experiments(runs: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    """Return the runs whose records name one of these experiments; all where there are none."""
    if runs.empty:
        return runs
    wanted = runs["experiment"].isin(names)
    return runs[wanted] if wanted.any() else runs


def quantized_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs of all methods except ``full_precision``, which is every run's own baseline."""
    return runs if runs.empty else runs[runs["method"] != "full_precision"]


def setting_key(settings: Mapping[str, Any], but: Iterable[str] = ()) -> str:
    """Return a setting's identity as canonical JSON: everything that decides its quantized model.

    Args:
        settings: the column ``settings`` of a row of :func:`finished_runs`.
        but: keys (``config.method_params.critical_ratio``) to leave out.
    """
    left_out = {*SEEDS, *_LABELS, *but}
    kept = {
        key: value
        for key, value in settings.items()
        if key not in left_out and decides(key.removeprefix(CONFIG))
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _complete(records: pd.DataFrame) -> pd.DataFrame:
    """Complete records; of a run id that is both own and shipped, the own ones."""
    if records.empty or "status" not in records:
        return pd.DataFrame()
    runs = records[records["status"] == "complete"]
    if runs.empty:
        return pd.DataFrame()
    shipped = runs["reference"].astype(bool)
    own = set(runs.loc[~shipped, "run_id"])
    return runs[~(shipped & runs["run_id"].isin(own))].reset_index(drop=True)


def _is_older(runs: pd.DataFrame) -> pd.Series:
    """Whether another record has a higher revision of the method or solver that a run used."""
    parts: dict[str, set[str]] = {}
    newest: dict[str, int] = {}
    for method, revisions in zip(runs["method"], runs["revisions"], strict=True):
        parts.setdefault(str(method), set()).update(revisions)
        for part, revision in revisions.items():
            newest[part] = max(newest.get(part, 1), int(revision))
    flags = [
        any(int(revisions.get(part, 1)) < newest[part] for part in parts[str(method)])
        for method, revisions in zip(runs["method"], runs["revisions"], strict=True)
    ]
    return pd.Series(flags, index=runs.index, dtype=bool)


def _on_device(runs: pd.DataFrame) -> pd.DataFrame:
    """Put the kind of device that a run was made on in place of the one asked for (``auto``)."""
    asked = runs[DEVICE] if DEVICE in runs else ["auto"] * len(runs)
    pairs = zip(runs["device"], asked, strict=True)
    kinds = [(seen if isinstance(seen, str) else str(want)).split(":")[0] for seen, want in pairs]
    settings = [
        {**settings, DEVICE: kind} for settings, kind in zip(runs["settings"], kinds, strict=True)
    ]
    runs = runs.copy()
    runs[DEVICE] = kinds
    runs["settings"] = pd.Series(settings, index=runs.index)
    return runs


def _column(runs: pd.DataFrame, name: str) -> pd.Series:
    if name not in runs:
        return pd.Series(float("nan"), index=runs.index)
    return runs[name].astype(float)
