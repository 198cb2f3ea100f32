"""The finished runs of a results folder, those made for their times apart from the others.

A job of the quantization-time sweep has the run id of the same job in another sweep: it is the same
run, made again on a machine that did nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from crvq.report.finished_runs import finished_runs, of_experiments, older_revisions
from crvq.report.records import load_layers, load_records
from crvq.report.settings import with_relative_loss

TIMED = ("smollm2-quantization-time",)
"""Experiments whose runs are made for their seconds."""


def load_runs(
    results_dir: str | Path, layers: pd.DataFrame | None = None, *, reference: bool = True
) -> pd.DataFrame:
    """Return the finished runs of a results folder, with the mean relative loss of their linears.

    Runs of the experiments that measure time are left out, except where there are no others.

    Args:
        results_dir: the folder of the experiments.
        layers: of :func:`crvq.report.records.load_layers`, where they were read already.
        reference: include shipped records.
    """
    runs = finished_runs(load_records(results_dir, reference=reference))
    if not runs.empty and not runs["experiment"].isin(TIMED).all():
        runs = runs[~runs["experiment"].isin(TIMED)].reset_index(drop=True)
    layers = load_layers(results_dir, reference=reference) if layers is None else layers
    return with_relative_loss(runs, layers)


def load_timed_runs(results_dir: str | Path, *, reference: bool = True) -> pd.DataFrame:
    """Return the finished runs of the experiments that measure time; all where there are none.

    Args:
        results_dir: the folder of the experiments.
        reference: include shipped records.
    """
    return of_experiments(finished_runs(load_records(results_dir, reference=reference)), TIMED)


def load_older_runs(results_dir: str | Path, *, reference: bool = True) -> pd.DataFrame:
    """Return the runs that tables leave out, since an older algorithm revision made them.

    Args:
        results_dir: the folder of the experiments.
        reference: include shipped records.
    """
    return older_revisions(load_records(results_dir, reference=reference))
