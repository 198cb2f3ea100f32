"""Models too small to say anything of a paper's claims."""

from __future__ import annotations

import pandas as pd

LEAST_WEIGHTS = 50e6
"""Models of fewer weights are toys: what works on them says little of the claimed sizes."""
_WEIGHTS = "bits.all_weights"


def without_toys(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of models from :data:`LEAST_WEIGHTS` on, and those that do not say how large they are.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`; may be empty.
    """
    if _WEIGHTS not in runs:
        return runs
    return runs[~(pd.to_numeric(runs[_WEIGHTS]) < LEAST_WEIGHTS)].reset_index(drop=True)
