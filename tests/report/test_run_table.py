"""Rows of the run table: seeds together, other settings and protocols apart."""

import math

from crvq.report.run_table import BITS, run_table
from crvq.report.runs import Run


def rows_of(tmp_path, *records):
    runs = [Run(tmp_path / "a" / record["run_id"], record) for record in records]
    return run_table(runs)


def text(value, **changes):
    entry = {"quantized": value, "full_precision": 20.0, "tokens": 64, "context": 64}
    return {"wiki": {**entry, **changes}}


def test_seeds_share_a_row_and_other_settings_do_not(tmp_path, make_record):
    records = [
        make_record(str(seed), config={"seed": seed}, perplexity=text(value))
        for seed, value in enumerate((90.0, 100.0, 110.0))
    ]
    other = make_record("other", params={"codebooks": 5}, perplexity=text(math.inf))
    rows, measures = rows_of(tmp_path, *records, other)
    assert [len(row.runs) for row in rows] == [3, 1]
    wiki = next(measure for measure in measures if measure.title == "ppl wiki 64")
    assert (rows[0].mean(wiki), rows[0].std(wiki)) == (100.0, 10.0)
    assert (rows[1].mean(wiki), rows[1].std(wiki)) == (math.inf, None)
    assert measures[0] == BITS
    assert "codebooks=5" in rows[1].name


def test_numbers_of_other_protocols_never_share_a_column(tmp_path, make_record):
    drawn = {"context": 64, "windows": "drawn", "count": 1, "seed": 0}
    changes = [{}, {"context": 32}, {"key": drawn}, {"key": {**drawn, "seed": 1}}]
    records = [
        make_record(str(n), params={"codebooks": n}, perplexity=text(float(n), **change))
        for n, change in enumerate(changes, start=1)
    ]
    rows, measures = rows_of(tmp_path, *records)
    columns = [measure for measure in measures if measure.title.startswith("ppl ")]
    assert len({measure.title for measure in columns}) == 4
    for measure in columns:
        assert sum(row.mean(measure) is not None for row in rows) == 1


def test_a_failed_run_keeps_its_own_row(tmp_path, make_record):
    failed = make_record("2", status="failed", error={"type": "E", "message": "m"})
    rows, _ = rows_of(tmp_path, make_record("1"), failed)
    assert [row.status for row in rows] == ["complete", "failed"]
