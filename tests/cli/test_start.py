"""How fast a command answers: nothing heavy is imported before there is work to do."""

import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from crvq.cli.main import _announce, _labels
from crvq.cli.plan import Plan, PlannedJob
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "pandas", "wandb", "numpy", "plotly")
REFUSED_WITHOUT_TORCH = [
    ["--help"],
    ["--cfg", "job"],
    ["crvq.critical_ration=0.1"],
    ["method=crqv"],
    ["crvq.importance=luck"],
    ["seed=-1"],
    ["device=gpu"],
    ["eval=everything", "seed=-1"],
    ["-m", "method=rtn,gptq,crvq,aqlm", "budget=1,2", "seed=0,-1"],
    ["+experiments=importance", "seed=x"],
]
SCRIPT = f"""
import resource, sys
sys.argv = ["run.py", *sys.argv[1:]]
import crvq.cli.main
code = 0
try:
    crvq.cli.main.main()
except SystemExit as stop:
    code = stop.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in {HEAVY} if name in sys.modules]
print("ENDED", code, used.ru_utime + used.ru_stime, ",".join(heavy) or "-", file=sys.stderr)
"""


def ended(*arguments):
    """Exit code, CPU seconds and heavy modules of a command in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in finished.stderr, finished.stderr
    _, code, seconds, heavy = finished.stderr.strip().splitlines()[-1].split()
    return int(code), float(seconds), heavy


@pytest.mark.parametrize("arguments", REFUSED_WITHOUT_TORCH, ids=" ".join)
def test_what_needs_no_model_imports_no_heavy_library(arguments):
    code, seconds, heavy = ended(*arguments)
    assert heavy == "-"
    assert code == (0 if arguments[0].startswith("--") else 2)
    # Half a second on a fast machine; four times the allowance for a slow and busy one.
    assert seconds < 8


def test_importing_the_package_costs_nothing():
    script = (
        "import time; t = time.process_time(); import crvq, sys; "
        f"print(time.process_time() - t, [n for n in {HEAVY} if n in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, _, heavy = finished.stdout.strip().partition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.2


def test_a_first_line_appears_before_libraries_load(run_tiny, monkeypatch):
    def stop(config, number, labels):
        raise SystemExit(7)

    monkeypatch.setattr("crvq.cli.main._announce", stop)
    assert run_tiny("eval=none").code == 7


def test_the_first_line_says_which_job_and_model(capsys, compose_run):
    _announce(compose_run("crvq.critical_ratio=0.25"), 1, ["seed=0", "seed=1", "seed=2"])
    told = capsys.readouterr().err
    assert told.startswith("job 2 of 3: seed=1, crvq, loading local ...")
    _announce(compose_run(), 0, [""])
    assert "job" not in capsys.readouterr().err


def test_jobs_are_told_apart_by_what_differs():
    jobs = [PlannedJob(("a=1", f"seed={seed}", "b=2"), OmegaConf.create()) for seed in (0, 1)]
    assert _labels(Plan(jobs, 3, multirun=True)) == ["seed=0", "seed=1", ""]
