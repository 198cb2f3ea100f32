"""The finished runs of a results folder, those that were only timed apart from the others.

A job of the quantization-time sweep has the run id of the same job in another sweep: it is the
same run, made once more on a machine that did nothing else. Rows of one id are merged, so its
seconds would take the place of some of the other's.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from crvq.report.finished_runs import finished_runs
from crvq.report.records import load_layers, load_records
from crvq.report.settings import with_relative_loss

TIMED = "*time*"
"""Names of experiments whose runs are made for their seconds."""


def load_runs(results_dir: str | Path, layers: pd.DataFrame | None = None) -> pd.DataFrame:
    """The finished runs of a results folder, with the mean relative loss of their linears.

    Runs of the experiments that time are left out, but where there are no others.

    Args:
        results_dir: the folder of the experiments.
        layers: of :func:`crvq.report.records.load_layers`, where they were read already.
    """
    runs = finished_runs(_split(load_records(results_dir), timed=False))
    return with_relative_loss(runs, load_layers(results_dir) if layers is None else layers)


def load_timed_runs(results_dir: str | Path) -> pd.DataFrame:
    """The finished runs of the experiments that time; all finished runs where there are none.

    Args:
        results_dir: the folder of the experiments.
    """
    return finished_runs(_split(load_records(results_dir), timed=True))


def _split(records: pd.DataFrame, timed: bool) -> pd.DataFrame:
    """The complete records that are timed, or the others; all where there are none of the kind."""
    if records.empty or "status" not in records:
        return records
    complete = records[records["status"] == "complete"]
    wanted = complete[[fnmatch(name, TIMED) is timed for name in complete["experiment"]]]
    return complete if wanted.empty else wanted
