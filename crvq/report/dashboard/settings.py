"""Which runs are one setting, and how it was fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence

from crvq.report.dashboard.runs import Run
from crvq.report.finetune_stages import NONE, finetune_stage
from crvq.report.finished_runs import setting_key
from crvq.report.run_labels import Record
from crvq.tracking.json_values import flatten


def same_settings(runs: Sequence[Run]) -> list[int]:
    """Return a number for every run, equal for those that differ in seeds alone.

    As in the tables, kinds of devices count and what is evaluated does not. Runs without
    a configuration are settings of their own.
    """
    keys = [_setting(run.record) or run.key for run in runs]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def finetuned(record: Record) -> str | None:
    """Return the stages of fine-tuning; None if there are none."""
    stage = finetune_stage(flatten({"config": record.get("config") or {}}))
    return None if stage == NONE else stage


def _setting(record: Record) -> str | None:
    config = record.get("config")
    if not config:
        return None
    device = str(record.get("device") or config.get("device")).split(":")[0]
    return setting_key(flatten({"config": {**config, "device": device}}))
