from rich.console import Console

from crvq.report.agreement_table import agreement_table

ENTRY = {"kl_divergence": 1.23456, "top1_agreement": 0.4321, "tokens": 8188, "context": 2048}


def test_a_row_for_every_run_and_text(make_record):
    agreement = {"wiki": {**ENTRY, "windows": 4}, "c4": {**ENTRY, "windows": 4, "tokens": 100}}
    record = make_record(agreement=agreement)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(agreement_table([record, make_record("other")]))
    rows = [line for line in console.export_text().splitlines() if "1.235" in line]
    assert len(rows) == 2
    assert "wiki, 8,188 tokens at 2048" in rows[0]
    assert "43.2%" in rows[0]


def test_runs_without_it_have_no_table(make_record):
    assert agreement_table([make_record()]) is None
