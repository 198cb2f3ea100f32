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
