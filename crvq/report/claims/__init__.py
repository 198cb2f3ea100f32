"""The paper's claims, each judged by a stated rule over our records."""

from crvq.report.claims.claim import Claim, Finding, Verdict
from crvq.report.claims.evidence import Evidence
from crvq.report.claims.paper_claims import CLAIMS
from crvq.report.claims.table import EVIDENCE_FILE, claims_table, evidence_page, judge_claims
from crvq.report.claims.toys import without_toys

__all__ = [
    "CLAIMS",
    "EVIDENCE_FILE",
    "Claim",
    "Evidence",
    "Finding",
    "Verdict",
    "claims_table",
    "evidence_page",
    "judge_claims",
    "without_toys",
]
