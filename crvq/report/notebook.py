"""Where the notebooks find records and leave tables."""

from __future__ import annotations

import os
from pathlib import Path

from crvq.report.records import default_tables

RESULTS_VARIABLE = "CRVQ_RESULTS"
TABLES_VARIABLE = "CRVQ_TABLES"


def results_folder() -> Path:
    """``$CRVQ_RESULTS``, or ``results`` in the working folder or in one above it."""
    named = os.environ.get(RESULTS_VARIABLE)
    if named:
        return Path(named)
    here = Path.cwd()
    found = (folder / "results" for folder in (here, *here.parents))
    return next((folder for folder in found if folder.is_dir()), here / "results")


def tables_folder() -> Path:
    """``$CRVQ_TABLES``, or the ignored ``tables`` of the results folder."""
    named = os.environ.get(TABLES_VARIABLE)
    return Path(named) if named else default_tables(results_folder())
