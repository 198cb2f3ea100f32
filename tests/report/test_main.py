import pytest

from crvq.cli.report import main
from crvq.files.atomic import write_json


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


def test_watch_serves_the_page_until_ctrl_c(results, monkeypatch, capsys):
    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupt)
    assert main([str(results), "--watch", "--port", "0"]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().err
    assert not (results / "report.html").exists()


@pytest.mark.parametrize("place", ["folder", "file/page.html"])
def test_a_page_that_cannot_be_written_is_one_line(place, results, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main([str(results), "--out", str(tmp_path / place)]) == 1
    reply = capsys.readouterr().err
    assert str(tmp_path / place) in reply
    assert len(reply.splitlines()) == 1


@pytest.mark.parametrize("place", ["a", "a/1"])
@pytest.mark.parametrize("how", [[], ["--watch"]])
def test_the_folder_of_one_experiment_or_run_says_what_to_ask_for(place, how, results, capsys):
    assert main([str(results / place), *how]) == 1
    assert f"python -m crvq.report {results} --experiment a`" in capsys.readouterr().err


def test_a_relative_folder_is_answered_as_it_was_typed(results, monkeypatch, capsys):
    monkeypatch.chdir(results.parent)
    assert main(["results/a"]) == 1
    assert "`python -m crvq.report results --experiment a`" in capsys.readouterr().err


def test_shipped_records_can_be_left_out(results, make_record, capsys):
    shipped = results / "reference" / "b" / "2" / "record.json"
    write_json(shipped, make_record("2"))
    assert main([str(results)]) == 0
    assert "2 complete" in capsys.readouterr().err
    assert main([str(results), "--no-reference"]) == 0
    assert "1 complete" in capsys.readouterr().err
    assert main([str(results / "reference")]) == 0
    assert not (results / "reference" / "report.html").exists()
