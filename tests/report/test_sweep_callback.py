"""Real multiruns of a small application in processes of their own."""

import os
import runpy
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.forked import forked
from tests.fresh import Ended

APPLICATION = """
import os
from pathlib import Path

import hydra

from crvq.config import CalibrationConfig, ModelConfig, RunConfig, StrictModel
from crvq.report.sweep_callback import announce_record, current_sweep
from crvq.tracking.record import RunRecord


class Params(StrictModel):
    ratio: float


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    if cfg.ratio > 1:
        raise ValueError(f"ratio={cfg.ratio} is too much")
    config = RunConfig(
        model=ModelConfig(name="tiny", source="path", path="p"),
        method="crvq",
        method_params=Params(ratio=cfg.ratio),
        calibration=CalibrationConfig(),
    )
    run_id = f"run-{cfg.ratio}"
    folder = Path("results") / "default" / run_id
    if cfg.announce:
        announce_record(folder)
    if RunRecord.is_complete(folder):
        return str(folder)
    with RunRecord.start(folder, config, run_id, sweep=current_sweep()) as record:
        if cfg.ratio == 0.5:
            raise ArithmeticError("not finite")
        if cfg.ratio == 0.7:
            os._exit(9)
        record.complete()
    return folder


main()
"""
CONFIG = """
ratio: 0.1
announce: true
hydra:
  sweep:
    dir: sweeps/here
  callbacks:
    sweep_table:
      _target_: crvq.report.sweep_callback.SweepTable
"""


@pytest.fixture
def application(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "config.yaml").write_text(CONFIG)

    def run(*arguments):
        def work():
            GlobalHydra.instance().clear()
            os.chdir(tmp_path)
            sys.argv = ["app.py", *arguments]
            runpy.run_path("app.py", run_name="__main__")

        number = len(list(tmp_path.glob("*.out")))
        output, errors = tmp_path / f"{number}.out", tmp_path / f"{number}.err"
        code = forked(work, output, errors).wait()
        return Ended(code, output.read_text(), errors.read_text())

    return run


def test_all_jobs_are_in_the_table_whatever_became_of_them(application):
    first = application("-m", "ratio=0.1,0.5,3,0.2")
    assert first.returncode == 1
    table = first.stdout[first.stdout.index("tiny") :]
    lines = [line.rsplit("-", 1)[0] for line in table.splitlines() if line.endswith(" 0 s  ")]
    # A job that has no configuration is called as it was asked for.
    assert [line.strip() for line in lines] == [
        "CRVQ · ratio=0.1",
        "CRVQ · ratio=0.5 failed",
        "ratio=3 failed",
        "CRVQ · ratio=0.2",
    ]
    table = " ".join(table.split())
    assert "ratio=0.5: failed: ArithmeticError: not finite" in table
    assert "ratio=3: failed: ValueError: ratio=3 is too much" in table
    assert [line.strip() for line in first.stdout.splitlines()].count("tiny") == 1


def test_a_skipped_job_is_in_the_table_and_earlier_jobs_are_not(application):
    assert application("-m", "ratio=0.1,0.2,0.3").returncode == 0
    again = application("-m", "announce=false", "ratio=0.1,0.4")
    assert again.returncode == 0
    assert again.stdout.count("ratio=0.1  ") == 1
    assert again.stdout.count("ratio=0.4  ") == 1
    assert "ratio=0.2" not in again.stdout
    assert "ratio=0.3" not in again.stdout


def test_a_killed_process_leaves_the_index_for_others(application, tmp_path):
    from crvq.report.sweep_index import sweep_records

    assert application("-m", "ratio=0.1,0.7,0.2").returncode == 9
    records = sweep_records(tmp_path / "sweeps" / "here")
    assert [(record["run_id"], record["status"]) for record in records] == [
        ("run-0.1", "complete"),
        ("run-0.7", "running"),
    ]
    assert records[0]["sweep"] == "sweeps_here"


def test_a_single_run_prints_no_sweep(application, tmp_path):
    single = application("ratio=0.1")
    assert single.returncode == 0
    assert "crvq" not in single.stdout
    assert "SweepTable" not in single.stderr  # Hydra would only warn
    assert not (tmp_path / "sweeps").exists()
