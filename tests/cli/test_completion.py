"""Tab completion of bash, as ``eval "$(python run.py -sc install=bash)"`` installs it."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
python() {{ "{python}" "$@"; }}
eval "$({python} run.py -sc install=bash)"
COMP_LINE="python run.py method=crvq_" COMP_POINT=26 COMP_CWORD=2
words=(python run.py method=crvq_)
hydra_bash_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_options_are_completed():
    finished = subprocess.run(
        ["bash", "-c", SCRIPT.format(python=sys.executable)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NameError" not in finished.stderr, finished.stderr
    assert {"method=crvq_1bit", "method=crvq_paper"} <= set(finished.stdout.split())
