"""Every table of the paper, made from run records (``python -m crvq.report.tables``)."""

from crvq.report.tables.ablations import ABLATIONS, Ablation, ablation_table
from crvq.report.tables.all_tables import TABLES, ReportData, all_tables, load_data
from crvq.report.tables.costs import size_table, time_table
from crvq.report.tables.finetuning import finetuning_table
from crvq.report.tables.layers import best_runs, layers_table
from crvq.report.tables.loaded_runs import load_older_runs, load_runs, load_timed_runs
from crvq.report.tables.main_table import main_table
from crvq.report.tables.published_rows import comparison_table, peers_table
from crvq.report.tables.zero_shot import zero_shot_table

__all__ = [
    "ABLATIONS",
    "TABLES",
    "Ablation",
    "ReportData",
    "ablation_table",
    "all_tables",
    "best_runs",
    "comparison_table",
    "finetuning_table",
    "layers_table",
    "load_data",
    "load_older_runs",
    "load_runs",
    "load_timed_runs",
    "main_table",
    "peers_table",
    "size_table",
    "time_table",
    "zero_shot_table",
]
