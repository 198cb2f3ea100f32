"""Stored outputs are what the committed records give; without records notebooks say so."""

from pathlib import Path

import nbformat
import pytest

from crvq.report.notebook import run_notebook

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITHOUT_PICTURES = {"ablations", "claims", "main_table"}


def joined(folder):
    """Return the path of a notebook with the cells of all of them: one kernel starts for all."""
    whole = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        whole.cells += code_cells(nbformat.read(path, as_version=4))
    for number, cell in enumerate(whole.cells):
        cell.id = f"cell-{number}"
    path = folder / "all.ipynb"
    nbformat.write(whole, path)
    return path


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell shows as text; how many pictures, whatever they are stored as."""
    shown = [out.get("data", {}) for out in cell.outputs]
    pictures = sum("image/png" in data or "application/json" in data for data in shown)
    words = [data["text/markdown"] for data in shown if "text/markdown" in data]
    words += [data["text/html"] for data in shown if "text/html" in data]
    return words, pictures


def test_stored_outputs_are_up_to_date(tmp_path):
    """If this fails: ``make notebooks``, and commit what changed."""
    fresh = run_notebook(joined(tmp_path), ROOT / "results" / "reference", "json")
    stored = [cell for path in NOTEBOOKS for cell in code_cells(nbformat.read(path, as_version=4))]
    for new, old in zip(fresh.cells, stored, strict=True):
        assert texts(new) == texts(old), new.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_and_tables_are_stored(path):
    shown = [texts(cell) for cell in code_cells(nbformat.read(path, as_version=4))]
    assert any(words for words, _ in shown)
    assert bool(sum(count for _, count in shown)) is (path.stem not in WITHOUT_PICTURES)
    assert path.stat().st_size < 1_500_000


def test_without_records_they_say_so(tmp_path):
    """Nothing but messages is shown, nothing fails and nothing is written."""
    published = (ROOT / "results" / "reference" / "published.csv").read_bytes()
    results = tmp_path / "results"
    results.mkdir()
    (results / "published.csv").write_bytes(published)
    text = str(run_notebook(joined(tmp_path), results, "json"))
    for said in ("No records for this table yet", "No finished run", "be tested here"):
        assert said in text
    assert [path.name for path in results.iterdir()] == ["published.csv"]
