from pathlib import Path

from crvq.files.atomic import write_json
from crvq.report.placed_record import placed_record
from crvq.report.where_next import run_folder


def test_a_record_that_was_made_elsewhere_is_told_where_it_lies(tmp_path, make_record, monkeypatch):
    record = make_record("r1", config={"results_dir": "/made/elsewhere"})
    folder = tmp_path / "results" / "kept" / "r1"
    write_json(folder / "record.json", record)
    assert run_folder(record) == Path("/made/elsewhere/default/r1")
    assert run_folder(placed_record(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert run_folder(placed_record(folder)) == Path("results/kept/r1")


def test_a_reused_record_says_so(tmp_path, make_record):
    folder = tmp_path / "results" / "kept" / "r1"
    write_json(folder / "record.json", make_record("r1"))
    assert placed_record(folder)["reused"] is False
    assert placed_record(folder, reused=True)["reused"] is True
