"""Every notebook runs top to bottom, on the committed records and on none."""

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WRITTEN = {
    "main_table": "main.tex",
    "ablations": "ablation_importance.md",
    "pareto": "published_peers.csv",
    "layers": "layers.md",
    "claims": "claims.tex",
}


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks: most of a notebook's time are a kernel's imports."""
    manager = KernelManager()
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def run(kernel):
    """Run a notebook with no names defined and with this process's environment."""

    def executed(path):
        notebook = nbformat.read(path, as_version=4)
        places = {name: os.environ[name] for name in ("CRVQ_RESULTS", "CRVQ_TABLES")}
        fresh = f"%reset -f\nimport os\nos.environ.update({places!r})\ndel os"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
        # Generous: a busy machine starts a kernel slowly; the cells take a second or two.
        client = NotebookClient(notebook, km=kernel, timeout=600, startup_timeout=600)
        client.execute()
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
        assert not [out for out in outputs if out["output_type"] == "error"]
        return [out["data"] for out in outputs if "data" in out]

    return executed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_on_the_committed_records(path, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CRVQ_RESULTS", str(ROOT / "results" / "reference"))
    monkeypatch.setenv("CRVQ_TABLES", str(tmp_path))
    shown = run(path)
    assert shown
    assert (tmp_path / WRITTEN[path.stem]).stat().st_size > 100


def test_without_records_they_say_so(run, tmp_path, monkeypatch):
    """All in one kernel: nothing but messages is shown, and nothing fails."""
    monkeypatch.setenv("CRVQ_RESULTS", str(tmp_path))
    monkeypatch.setenv("CRVQ_TABLES", str(tmp_path / "tables"))
    published = (ROOT / "results" / "reference" / "published.csv").read_bytes()
    (tmp_path / "published.csv").write_bytes(published)
    joined = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        joined.cells += [cell for cell in cells if cell.cell_type == "code"]
    for number, cell in enumerate(joined.cells):
        cell.id = f"cell-{number}"
    whole = tmp_path / "all.ipynb"
    nbformat.write(joined, whole)
    text = str(run(whole))
    for said in ("No records for this table yet", "No finished run", "be tested here"):
        assert said in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells)
    assert all(cell.get("execution_count") is None for cell in cells)
