import pytest

from crvq.files.atomic import write_json
from crvq.report.__main__ import main


@pytest.fixture
def results(tmp_path, make_record):
    write_json(tmp_path / "results" / "a" / "1" / "record.json", make_record("1"))
    return tmp_path / "results"


def test_the_page_lies_with_the_records_by_default(results, capsys):
    assert main([str(results)]) == 0
    assert (results / "report.html").stat().st_size > 10_000
    assert "1 complete" in capsys.readouterr().err


def test_out_and_experiment(results, tmp_path, capsys):
    assert main([str(results), "--out", str(tmp_path / "p.html"), "--experiment", "b"]) == 1
    assert "'b'" in capsys.readouterr().err
    assert main([str(results), "--out", str(tmp_path / "p.html"), "--experiment", "a"]) == 0
    assert (tmp_path / "p.html").exists()


def test_no_records_is_an_error_without_a_traceback(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "python run.py" in capsys.readouterr().err


def test_open(results, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main([str(results), "--open"]) == 0
    assert opened == [(results / "report.html").absolute().as_uri()]


def test_watch_ends_with_ctrl_c(results, monkeypatch):
    def interrupt(seconds):
        assert seconds == 0.5
        raise KeyboardInterrupt

    monkeypatch.setattr("crvq.report.dashboard.watch.time.sleep", interrupt)
    assert main([str(results), "--watch", "0.5"]) == 0
    assert "data-reload" in (results / "report.html").read_text(encoding="utf-8")


def test_a_wrong_interval(results, capsys):
    with pytest.raises(SystemExit):
        main([str(results), "--watch", "0"])
    assert "between" in capsys.readouterr().err


def test_an_interval_that_is_a_folder_is_told_where_folders_go(capsys):
    with pytest.raises(SystemExit):
        main(["--watch", "results"])
    assert "python -m crvq.report results --watch" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["folder", "file/page.html"])
def test_a_page_that_cannot_be_written_is_one_line(place, results, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main([str(results), "--out", str(tmp_path / place)]) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / place) in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("place", ["a", "a/1"])
@pytest.mark.parametrize("how", [[], ["--watch", "0.1"]])
def test_the_folder_of_one_experiment_or_run_says_what_to_ask_for(place, how, results, capsys):
    assert main([str(results / place), *how]) == 1
    assert f"python -m crvq.report {results} --experiment a`" in capsys.readouterr().err


def test_a_relative_folder_is_answered_as_it_was_typed(results, monkeypatch, capsys):
    monkeypatch.chdir(results.parent)
    assert main(["results/a"]) == 1
    assert "`python -m crvq.report results --experiment a`" in capsys.readouterr().err


@pytest.mark.parametrize(("there", "seen"), [(True, "holds no run"), (False, "does not exist")])
def test_watch_says_that_it_waits(there, seen, tmp_path, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("crvq.report.dashboard.watch.time.sleep", interrupt)
    folder = tmp_path / "results"
    if there:
        folder.mkdir()
    assert main([str(folder), "--watch"]) == 0
    told = capsys.readouterr().err
    assert seen in told
    assert "waiting for the first" in told


def test_shipped_records_can_be_left_out(results, make_record, capsys):
    shipped = results / "reference" / "b" / "2" / "record.json"
    write_json(shipped, make_record("2"))
    assert main([str(results)]) == 0
    assert "2 complete" in capsys.readouterr().err
    assert main([str(results), "--no-reference"]) == 0
    assert "1 complete" in capsys.readouterr().err
    assert main([str(results / "reference")]) == 0
    assert not (results / "reference" / "report.html").exists()
