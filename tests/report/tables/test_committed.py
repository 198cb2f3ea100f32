"""The committed tables are what the committed records give."""

import pytest

from crvq.report.tables.__main__ import main


@pytest.fixture(scope="module")
def fresh(pytestconfig, tmp_path_factory):
    """All tables, made again from the shipped records alone."""
    out = tmp_path_factory.mktemp("tables")
    assert main([str(pytestconfig.rootpath / "results" / "reference"), "--out", str(out)]) == 0
    return {path.name: path.read_text() for path in out.iterdir()}


@pytest.fixture(scope="module")
def committed(pytestconfig):
    folder = pytestconfig.rootpath / "results" / "reference" / "tables"
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_no_table_is_missing_or_left_from_before(fresh, committed):
    assert sorted(committed) == sorted(fresh)


def test_no_table_is_stale(fresh, committed):
    """If this fails: ``python -m crvq.report.tables --reference``, and commit what changed."""
    stale = [name for name in fresh if name in committed and fresh[name] != committed[name]]
    assert stale == []
