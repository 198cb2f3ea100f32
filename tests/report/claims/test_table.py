import re

import pandas as pd

from crvq.report.claims import CLAIMS, Verdict, claims_table, evidence_page, judge_claims
from crvq.report.published import read_published
from crvq.report.table_files import escape_markdown, to_latex, to_markdown

TEXTS = {claim.name: claim.text for claim in CLAIMS}


def test_every_claim_is_judged_even_without_records():
    for claim, finding in judge_claims(pd.DataFrame()):
        assert finding.verdict is Verdict.UNTESTED, claim.name
        assert finding.measured


def test_claims_are_complete_and_each_once():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert all((claim.text, claim.source, claim.rule))
        assert claim.confidence in {"high", "medium", "low"}


def test_the_table_says_noise_models_and_runs(runs_of, make_run):
    note = {"model_note": "was 4 bit"}
    pair = [make_run(100.0, critical_ratio=0.0, record=note), make_run(50.0, record=note)]
    table = claims_table(runs_of(*pair))
    row = table.frame.set_index("claim").loc[TEXTS["critical_channels"]]
    assert row["verdict"] == "holds"
    assert row["run_ids"].split() == [run["run_id"] for run in pair]
    assert table.notes[0].startswith("Noise of a comparison: two standard errors")
    assert "tiny: was 4 bit." in table.notes
    shown = to_markdown(table)
    assert re.search(r"\| holds +\| 50.0 % lower perplexity .* \[2 runs\]\(claims_evidence", shown)
    page = evidence_page(table)
    assert "## critical_channels\n" in page
    for said in (row["rule"], row["run_ids"]):
        assert escape_markdown(said) in page
    assert r"\toprule" in to_latex(table)


def test_claimed_sizes_are_those_that_were_read(pytestconfig):
    """The numbers in the claims stand in the committed table of published numbers."""
    published = read_published(pytestconfig.rootpath / "results" / "reference")
    crvq = published[published["method"].str.startswith("CRVQ")]
    values = set(crvq["value"].dropna())
    assert {38.9, 12.9, 0.06} <= values
