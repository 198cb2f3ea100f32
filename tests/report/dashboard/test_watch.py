import shutil

import pytest

from crvq.report.dashboard import watch
from crvq.report.dashboard.watch import watch_dashboard


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """Watches for as many looks as there are events; returns how many runs each page had."""
    out = tmp_path / "page.html"

    def looked(results, *events):
        pending = list(events)
        monkeypatch.setattr(watch.time, "sleep", lambda seconds: pending.pop(0)())
        pages = []
        watch_dashboard(
            results,
            out,
            on_write=lambda runs: pages.append(len(runs)),
            rounds=len(events) + 1,
        )
        assert pending == []
        return pages

    return looked


def nothing():
    """No change between two looks."""


def test_written_at_once_and_after_each_change_only(save_run, looked):
    results = save_run("a/1")
    pages = looked(
        results,
        nothing,
        lambda: save_run("a/2"),
        nothing,
        lambda: (results / "a" / "2" / "layers.csv").write_text("block,kind\n0,q\n"),
        lambda: shutil.rmtree(results / "a" / "1"),
        nothing,
    )
    assert pages == [1, 2, 2, 1]


def test_the_first_record_is_waited_for(tmp_path, save_run, looked):
    assert looked(tmp_path / "results", nothing, lambda: save_run("a/1")) == [1]


def test_a_run_under_way_is_looked_at_every_minute(save_run, looked, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])

    def later():
        now[0] += 40.0

    results = save_run("a/1", status="running")
    assert looked(results, later, later, later, later) == [1, 1, 1]
    save_run("a/1", status="complete")
    assert looked(results, later, later, later, later) == [1]


def test_a_folder_that_empties_meanwhile_is_waited_for_again(save_run, looked, monkeypatch):
    results = save_run("a/1")
    real = watch.write_dashboard

    def emptied(*arguments, **options):
        monkeypatch.setattr(watch, "write_dashboard", real)
        shutil.rmtree(results / "a")
        return real(*arguments, **options)

    monkeypatch.setattr(watch, "write_dashboard", emptied)
    assert looked(results, lambda: save_run("a/2")) == [1]
