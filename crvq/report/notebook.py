"""The notebooks: where they find records, and how their stored pictures are made again.

``python -m crvq.report.notebook notebooks/*.ipynb`` (``make notebooks``) runs them on the shipped
records and stores what they show, figures as PNG, so that a code host shows them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crvq.files.atomic import write_text
from crvq.report.records import REFERENCE

RESULTS_VARIABLE = "CRVQ_RESULTS"


def results_folder() -> Path:
    """``$CRVQ_RESULTS``, or ``results`` in the working folder or in one above it."""
    named = os.environ.get(RESULTS_VARIABLE)
    if named:
        return Path(named)
    here = Path.cwd()
    found = (folder / "results" for folder in (here, *here.parents))
    return next((folder for folder in found if folder.is_dir()), here / "results")


def run_notebook(path: Path, results: Path, renderer: str) -> Any:  # noqa: ANN401
    """Return the notebook in ``path``, executed; the file stays as it is.

    Args:
        path: of an ``.ipynb`` file.
        results: the folder whose records it reads.
        renderer: plotly's, which says how figures are stored: ``png``, or ``json`` without a
            browser.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    environment = {**os.environ, RESULTS_VARIABLE: str(results), "PLOTLY_RENDERER": renderer}
    client = NotebookClient(notebook, timeout=600, startup_timeout=600, record_timing=False)
    client.execute(env=environment)
    notebook.metadata.pop("language_info", None)  # it names the present Python
    return notebook


def main(paths: Sequence[str] | None = None) -> int:
    """Run notebooks on the shipped records, and store what they show in their files."""
    import nbformat

    shipped = results_folder().absolute() / REFERENCE
    for name in sys.argv[1:] if paths is None else paths:
        write_text(Path(name), nbformat.writes(run_notebook(Path(name), shipped, "png")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
