"""Claims and verdicts as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from crvq.report.claims.claim import Claim, Finding
from crvq.report.claims.evidence import Evidence
from crvq.report.claims.paper_claims import CLAIMS
from crvq.report.finished_runs import older_note
from crvq.report.paper_table import Column, PaperTable, unique_notes
from crvq.report.settings import model_notes


def judge_claims(
    runs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> list[tuple[Claim, Finding]]:
    """Each claim with what our records say of it.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`; may be empty.
        claims: the paper's by default.
    """
    evidence = Evidence(runs)
    return [(claim, claim.check(evidence)) for claim in claims]


def claims_table(
    runs: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    older: pd.DataFrame | None = None,
) -> PaperTable:
    """Return claim, rule, what we measured, verdict, and the runs behind it.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`; may be empty.
        claims: the paper's by default.
        older: of :func:`crvq.report.finished_runs.older_revisions`, for a note.
    """
    evidence = Evidence(runs)
    rows = [
        {
            "claim": claim.text,
            "source": f"{claim.source} ({claim.confidence})",
            "rule": claim.rule,
            "measured": finding.measured,
            "verdict": str(finding.verdict),
            "run_ids": " ".join(finding.run_ids),
        }
        for claim, finding in ((claim, claim.check(evidence)) for claim in claims)
    ]
    notes = [evidence.noise.in_words()]
    if not evidence.settings.empty:
        settings = evidence.settings
        notes.append(f"Models: {', '.join(sorted(set(settings['model'])))}.")
        notes += model_notes(settings)
    notes += older_note(older)
    columns = (
        Column("claim", "claim"),
        Column("source", "source (confidence)"),
        Column("rule", "holds if"),
        Column("measured", "measured"),
        Column("verdict", "verdict"),
        Column("run_ids", "runs", only_csv=True),
    )
    return PaperTable(
        "claims", "The paper's claims and our records", pd.DataFrame(rows), columns,
        unique_notes(notes),
    )  # fmt: skip
