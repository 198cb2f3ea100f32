import shutil
from pathlib import Path

import pytest

from crvq.files.atomic import write_json
from crvq.report.tables.__main__ import main
from crvq.tracking.csv_files import write_layers
from crvq.tracking.events import LayerRow

COMMITTED = Path(__file__).parents[3] / "results" / "reference"


def save(folder, record):
    write_json(folder / "exp" / record["run_id"] / "record.json", record)
    row = LayerRow(0, "0.q", "q", 4, 8, 2, 0.1, 0.1, 1, 0.1, 1.0)
    write_layers(folder / "exp" / record["run_id"] / "layers.csv", [row])


def test_writes_what_there_is_and_says_what_is_missing(tmp_path, make_run, capsys):
    for record in (make_run(), make_run(critical_ratio=0.0)):
        save(tmp_path, record)
    assert main([str(tmp_path)]) == 0
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"main.md", "main.tex", "main.csv", "ablation_critical_ratio.md", "layers.md"} <= written
    assert "ablation_importance.md" not in written
    assert "Run `python run.py +experiments=importance` first" in capsys.readouterr().err


def test_again_writes_the_same(tmp_path, make_run):
    save(tmp_path, make_run())
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert main([str(tmp_path), "--out", str(out)]) == 0
    first, second = ({p.name: p.read_bytes() for p in out.iterdir()} for out in outs)
    assert first == second


def test_published_numbers_are_used_where_there_are_any(tmp_path, make_run):
    save(tmp_path, make_run())
    shutil.copy(COMMITTED / "published.csv", tmp_path)
    assert main([str(tmp_path)]) == 0
    assert "no published number" in (tmp_path / "tables" / "published_comparison.md").read_text()
    assert "AQLM README" in (tmp_path / "tables" / "published_peers.md").read_text()


def test_an_empty_folder_says_so_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "main.md").write_text("of old")
    assert main([str(tmp_path)]) == 1
    assert "no run records" in capsys.readouterr().err
    assert (tmp_path / "tables" / "main.md").read_text() == "of old"


@pytest.mark.parametrize("depth", [1, 2])
def test_a_folder_too_deep_hints_at_the_right_one(tmp_path, make_run, capsys, depth):
    record = make_run()
    save(tmp_path, record)
    given = tmp_path.joinpath("exp", record["run_id"]) if depth == 2 else tmp_path / "exp"
    assert main([str(given)]) == 1
    assert capsys.readouterr().err.strip().endswith(f"all experiments: {tmp_path}")
    assert not (given / "tables").exists()


@pytest.mark.parametrize("out", ["file", "file/tables", "taken"])
def test_a_place_that_cannot_be_written_is_told_in_a_line(tmp_path, make_run, capsys, out):
    save(tmp_path / "results", make_run())
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "main.md").mkdir(parents=True)
    assert main([str(tmp_path / "results"), "--out", str(tmp_path / out)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"cannot be written to {tmp_path / out}" in line


def test_a_damaged_table_of_layers_costs_no_table(tmp_path, make_run):
    record = make_run()
    save(tmp_path, record)
    (tmp_path / "exp" / record["run_id"] / "layers.csv").write_bytes(b"\xff\xfe\x00")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "tables" / "main.md").exists()


@pytest.mark.parametrize("damage", ["published", "nowhere"])
def test_errors_are_told_in_a_line(tmp_path, make_run, capsys, damage):
    save(tmp_path, make_run())
    folder = tmp_path
    if damage == "published":
        (tmp_path / "published.csv").write_text("a\n1\n")
    else:
        folder = tmp_path / "nowhere"
    assert main([str(folder)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_runs_of_which_none_is_complete_make_no_tables(tmp_path, make_run, capsys):
    save(tmp_path, make_run(record={"status": "failed"}))
    assert main([str(tmp_path)]) == 1
    assert "None of the 1 runs" in capsys.readouterr().err
    assert not (tmp_path / "tables").exists()


def test_tracked_tables_are_written_only_where_that_is_asked_for(tmp_path, make_run, capsys):
    save(tmp_path / "reference", make_run())
    tracked = tmp_path / "reference" / "tables"
    assert main([str(tmp_path)]) == main([str(tmp_path / "reference")]) == 0
    assert not tracked.exists()
    assert (tmp_path / "tables" / "main.md").exists()
    save(tmp_path, make_run(30.0, reorder="none"))
    assert main([str(tmp_path), "--reference"]) == 0
    assert "30.00" not in (tracked / "main.md").read_text()
    assert main([str(tmp_path)]) == 0
    both = (tmp_path / "tables" / "main.md").read_text()
    assert "30.00" in both
    assert "reference: " in both
    assert main([str(tmp_path), "--no-reference"]) == 0
    assert "reference: " not in (tmp_path / "tables" / "main.md").read_text()
    assert "reference: " not in (tmp_path / "tables" / "main.csv").read_text()
