"""All tables of a results folder, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from crvq.registry import Registry
from crvq.report.claims import claims_table, without_toys
from crvq.report.paper_table import PaperTable
from crvq.report.published import published_path, read_published
from crvq.report.records import load_layers
from crvq.report.tables.ablations import ABLATIONS, Ablation, ablation_table
from crvq.report.tables.costs import size_table, time_table
from crvq.report.tables.finetuning import finetuning_table
from crvq.report.tables.layers import best_runs, layers_table
from crvq.report.tables.loaded_runs import load_older_runs, load_runs, load_timed_runs
from crvq.report.tables.main_table import main_table
from crvq.report.tables.published_rows import comparison_table, peers_table
from crvq.report.tables.zero_shot import zero_shot_table


@dataclass(frozen=True)
class ReportData:
    """What tables are made from: all runs of a results folder, read once."""

    runs: pd.DataFrame
    timed: pd.DataFrame
    layers: pd.DataFrame
    older: pd.DataFrame
    published: pd.DataFrame | None = None
    """None where there is no file of published numbers: tables that need it are left out."""

    @property
    def numbers(self) -> pd.DataFrame:
        """Return the published numbers, for tables that need them."""
        assert self.published is not None
        return self.published


TABLES: Registry[Callable[[ReportData], PaperTable]] = Registry("table")
"""A table is a function under ``@TABLES.register("name")``; other packages may add theirs."""
NEED_PUBLISHED = frozenset({"published_comparison", "published_peers"})

TABLES.add("main", lambda data: main_table(data.runs, older=data.older))
TABLES.add("zero_shot", lambda data: zero_shot_table(data.runs))
TABLES.add("finetuning", lambda data: finetuning_table(data.runs))
TABLES.add("quantization_time", lambda data: time_table(data.timed))
TABLES.add("model_size", lambda data: size_table(data.runs))
TABLES.add("layers", lambda data: layers_table(data.layers, best_runs(data.runs)))
TABLES.add("claims", lambda data: claims_table(without_toys(data.runs), older=data.older))
TABLES.add("published_comparison", lambda data: comparison_table(data.runs, data.numbers))
TABLES.add("published_peers", lambda data: peers_table(data.numbers))


def _ablation(ablation: Ablation, data: ReportData) -> PaperTable:
    return ablation_table(data.runs, ablation, data.older)


for _one in ABLATIONS:
    TABLES.add(f"ablation_{_one.name}", partial(_ablation, _one))


def load_data(results: Path, *, reference: bool = True) -> ReportData:
    """Read all that tables are made from.

    Args:
        results: the folder of the experiments.
        reference: include shipped records.
    """
    layers = load_layers(results, reference=reference)
    file = published_path(results)
    return ReportData(
        load_runs(results, layers, reference=reference),
        load_timed_runs(results, reference=reference),
        layers,
        load_older_runs(results, reference=reference),
        read_published(file) if file.exists() else None,
    )


def all_tables(data: ReportData) -> list[PaperTable]:
    """Return every table; those that no run fills are empty and say which command would."""
    names = [name for name in TABLES if data.published is not None or name not in NEED_PUBLISHED]
    return [TABLES.get(name)(data) for name in names]
