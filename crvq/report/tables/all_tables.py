"""All tables of a results folder."""

from __future__ import annotations

import pandas as pd

from crvq.report.claims import claims_table, without_toys
from crvq.report.paper_table import PaperTable
from crvq.report.tables.ablations import ABLATIONS, ablation_table
from crvq.report.tables.costs import size_table, time_table
from crvq.report.tables.finetuning import finetuning_table
from crvq.report.tables.layers import best_runs, layers_table
from crvq.report.tables.main_table import main_table
from crvq.report.tables.published_rows import comparison_table, peers_table
from crvq.report.tables.zero_shot import zero_shot_table


def all_tables(
    runs: pd.DataFrame,
    timed: pd.DataFrame,
    layers: pd.DataFrame,
    published: pd.DataFrame | None = None,
    older: pd.DataFrame | None = None,
) -> list[PaperTable]:
    """Return every table; those that no run fills are empty and say which command would.

    Args:
        runs: of :func:`crvq.report.tables.loaded_runs.load_runs`.
        timed: of :func:`crvq.report.tables.loaded_runs.load_timed_runs`.
        layers: of :func:`crvq.report.records.load_layers`.
        published: of :func:`crvq.report.published.read_published`; None leaves out the tables
            that need it.
        older: of :func:`crvq.report.tables.loaded_runs.load_older_runs`, for notes.
    """
    tables = [
        main_table(runs, older=older),
        *(ablation_table(runs, ablation, older) for ablation in ABLATIONS),
        zero_shot_table(runs),
        finetuning_table(runs),
        time_table(timed),
        size_table(runs),
        layers_table(layers, best_runs(runs)),
        claims_table(without_toys(runs), older=older),
    ]
    if published is not None:
        tables += [comparison_table(runs, published), peers_table(published)]
    return tables
