"""Tables made from run records, and from nothing else."""

from crvq.report.closing import print_closing
from crvq.report.closing_table import closing_table
from crvq.report.identical_jobs import identical_jobs
from crvq.report.records import load_layers, load_records
from crvq.report.where_next import where_next

__all__ = [
    "closing_table",
    "identical_jobs",
    "load_layers",
    "load_records",
    "print_closing",
    "where_next",
]
