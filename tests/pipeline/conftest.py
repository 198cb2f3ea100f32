"""Finished runs that tests start from, each made once."""

import json
import shutil

import pytest

from crvq.pipeline.run import run, run_folder
from crvq.tracking.record_schema import write_record


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory):
    """Folders of results and caches by the overrides of the one run that made them."""
    made = {}

    def make(compose_run, overrides):
        if overrides not in made:
            made[overrides] = folder = tmp_path_factory.mktemp("made")
            places = (f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}")
            run(compose_run(*overrides, *places))
        return made[overrides]

    return make


@pytest.fixture
def finished(made_runs, compose_run, tmp_path):
    """The folder of a tiny run that is finished, as ``run(compose_run(...))`` makes it.

    A run is made once for all tests; each test has a copy, as if it had been made there.
    """

    def copied(*overrides):
        made = made_runs(compose_run, overrides)
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        folder = run_folder(compose_run(*overrides))
        text = (folder / "record.json").read_text()
        write_record(folder / "record.json", json.loads(text.replace(str(made), str(tmp_path))))
        return folder

    return copied
