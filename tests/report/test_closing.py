import io

from rich.console import Console

from crvq.report.closing import print_closing


def printed(records):
    console = Console(file=io.StringIO(), width=80, no_color=True, _environ={})
    print_closing(records, console)
    return console.file.getvalue()


def test_one_run_says_where_its_record_lies(make_record):
    text = printed([make_record()])
    assert "full precision" in text
    assert "results/default/r1/record.json" in text


def test_a_sweep_says_what_came_out_identical_and_what_is_missing(make_record):
    records = [make_record(f"r{n}", params={"codebooks": n}, result_digest="a") for n in (1, 2)]
    text = printed(records)
    assert "CRVQ · codebooks=1 and CRVQ · codebooks=2 gave the same" in text
    assert "records: results/default\n" in text
    assert "python -m crvq.report results --open" in text
    assert "missing" not in text
    failed = {"label": "x", "status": "failed", "error": {"type": "E", "message": "m"}}
    assert "missing" in printed([*records, failed])


def test_only_failed_jobs(make_record):
    failed = {"label": "x", "status": "failed", "error": {"type": "E", "message": "m"}}
    assert "x: failed: E: m" in printed([failed])


def test_a_sweep_says_what_was_computed_and_what_was_reused(make_record):
    reference = {"results_dir": "results/reference"}
    records = [
        make_record("r1", reused=True, config=reference),
        make_record("r2", reused=True, params={"codebooks": 2}, config=reference),
        make_record("r3", reused=False, params={"codebooks": 3}),
    ]
    text = printed(records)
    assert "1 run computed now." in text
    assert "2 runs reused, made on" in text
    assert "records: results/reference/default, results/default" in text
    assert text.count("python -m crvq.report") == 1
    assert "reused" not in printed([{**record, "reused": False} for record in records])
