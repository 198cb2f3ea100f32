from pathlib import Path

from crvq.report.notebook import results_folder


def test_results_are_found_from_the_notebooks_folder(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("CRVQ_RESULTS", raising=False)
    assert results_folder() == tmp_path / "results"


def test_the_environment_says_where_else(monkeypatch):
    monkeypatch.setenv("CRVQ_RESULTS", "/a")
    assert results_folder() == Path("/a")
