"""Tab completion of bash, as ``eval "$(python run.py -sc install=bash)"`` installs it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
eval "$(python run.py -sc install=bash)"
COMP_LINE="python run.py method=crvq_" COMP_POINT=26 COMP_CWORD=2
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_options_are_completed(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    paths = {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    finished = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=ROOT, env={**os.environ, **paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NameError" not in finished.stderr, finished.stderr
    assert {"method=crvq_1bit", "method=crvq_paper"} <= set(finished.stdout.split())
