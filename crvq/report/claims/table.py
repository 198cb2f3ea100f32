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
from crvq.report.table_files import escape_markdown

EVIDENCE_FILE = "claims_evidence.md"


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
            "name": claim.name,
            "claim": claim.text,
            "source": f"{claim.source} ({claim.confidence})",
            "rule": claim.rule,
            "verdict": str(finding.verdict),
            "effect": finding.effect or "-",
            "measured": finding.measured,
            "evidence": f"{len(finding.run_ids)} runs",
            "link": f"{EVIDENCE_FILE}#{claim.name}",
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
        Column("name", "name", only_csv=True),
        Column("claim", "claim"),
        Column("verdict", "verdict"),
        Column("effect", "measured"),
        Column("evidence", "evidence", link="link"),
        Column("source", "source (confidence)", only_csv=True),
        Column("rule", "holds if", only_csv=True),
        Column("measured", "measured", only_csv=True),
        Column("run_ids", "runs", only_csv=True),
    )
    return PaperTable(
        "claims", "The paper's claims and our records", pd.DataFrame(rows), columns,
        unique_notes(notes),
    )  # fmt: skip


def evidence_page(table: PaperTable) -> str:
    """Return Markdown with a section for each claim: rule, what was compared, and the runs.

    Args:
        table: of :func:`claims_table`.
    """
    parts = ["# Evidence for the claims"]
    for row in table.frame.to_dict("records"):
        facts = {
            "claim": row["claim"],
            "source (confidence)": row["source"],
            "holds if": row["rule"],
            "measured": row["measured"],
            "verdict": row["verdict"],
            "runs": row["run_ids"] or "none",
        }
        lines = [f"- {name}: {escape_markdown(text)}" for name, text in facts.items()]
        parts += [f"## {row['name']}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
