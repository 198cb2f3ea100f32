"""How fast a command answers: nothing heavy is imported before there is work to do."""

import json
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
# Imports the command line once, and tries each command in a forked child.
SCRIPT = f"""
import json, os, resource, sys
import crvq.cli.main

def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def attempt(arguments):
    sys.argv = ["run.py", *arguments]
    try:
        crvq.cli.main.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0

importing = cpu_seconds()
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        said = os.open(f"{{sys.argv[2]}}/{{number}}", os.O_WRONLY | os.O_CREAT)
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(said, 1)
        os.dup2(said, 2)
        try:
            code = attempt(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        heavy = [name for name in {HEAVY} if name in sys.modules]
        print(json.dumps([arguments, code, importing + cpu_seconds(), heavy]), file=answers)
        answers.close()
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By arguments: exit code, CPU seconds, imports included, and heavy modules of a command."""
    said = tmp_path_factory.mktemp("said")
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(REFUSED_WITHOUT_TORCH), str(said)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for file in said.iterdir():
        assert "Traceback" not in file.read_text(), file.read_text()
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    return {tuple(arguments): rest for arguments, *rest in answers}


@pytest.mark.parametrize("arguments", REFUSED_WITHOUT_TORCH, ids=" ".join)
def test_what_needs_no_model_imports_no_heavy_library(arguments, ended):
    code, seconds, heavy = ended[tuple(arguments)]
    assert heavy == []
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
    reply = capsys.readouterr().err
    assert reply.startswith("job 2 of 3: seed=1, crvq, loading local ...")
    _announce(compose_run(), 0, [""])
    assert "job" not in capsys.readouterr().err


def test_jobs_are_told_apart_by_what_differs():
    jobs = [PlannedJob(("a=1", f"seed={seed}", "b=2"), OmegaConf.create()) for seed in (0, 1)]
    assert _labels(Plan(jobs, 3, multirun=True)) == ["seed=0", "seed=1", ""]
