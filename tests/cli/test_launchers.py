"""Checks of launchers, and the threads of their jobs."""

import subprocess
from types import SimpleNamespace

import psutil
import pytest

from crvq.cli import launchers
from crvq.cli.launchers import JOBLIB, SLURM, allocated_threads, check_launcher
from crvq.cli.main import CONFIG_NAME
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError
from crvq.tracking.environment import slurm_job
from tests.conftest import ROOT


@pytest.fixture
def slurm(monkeypatch):
    """Stand in for sbatch and sinfo."""
    answers = {"sinfo": "debug\nlong\n"}

    def run(command, **options):
        if answers["sinfo"] is None:
            raise subprocess.CalledProcessError(1, command, stderr="Unable to contact slurm\n")
        return SimpleNamespace(stdout=answers["sinfo"])

    monkeypatch.setattr(launchers.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(launchers.subprocess, "run", run)
    return answers


def test_a_job_has_the_threads_that_it_was_given():
    assert allocated_threads({"_target_": SLURM}, {"SLURM_CPUS_PER_TASK": "8"}) == 8
    assert allocated_threads({"_target_": SLURM}, {}) is None
    assert allocated_threads({"_target_": "basic"}, {}) is None


@pytest.mark.parametrize(
    ("workers", "threads"), [(1, 16), (2, 8), (3, 5), (-1, 1), (-2, 1), (99, 1)]
)
def test_workers_on_one_machine_share_its_cores(monkeypatch, workers, threads):
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(16)))
    assert allocated_threads({"_target_": JOBLIB, "n_jobs": workers}, {}) == threads


def test_a_partition_must_be_there(slurm):
    check_launcher({"_target_": SLURM, "partition": "long"})
    check_launcher({"_target_": SLURM, "partition": None})
    with pytest.raises(ConfigError, match="no partition gpu here; it has debug, long"):
        check_launcher({"_target_": SLURM, "partition": "long,gpu"})
    slurm["sinfo"] = None
    with pytest.raises(ConfigError, match="sinfo does not answer: Unable to contact slurm"):
        check_launcher({"_target_": SLURM, "partition": "long"})


def test_without_sbatch_it_says_where_to_go(monkeypatch):
    monkeypatch.setattr(launchers.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="set hydra/launcher=joblib"):
        check_launcher({"_target_": SLURM})
    check_launcher({"_target_": JOBLIB})


def test_a_gpu_of_another_machine_is_not_asked_for_here(slurm, tiny_overrides):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    asked = ["-m", "device=cuda", "seed=0,1", *tiny_overrides]
    with pytest.raises(ConfigError, match="device=cuda asks for a GPU"):
        check_command(asked, ROOT / "conf", CONFIG_NAME)
    plan, _ = check_command([*asked, "hydra/launcher=slurm"], ROOT / "conf", CONFIG_NAME)
    assert plan.launcher["cpus_per_task"] == 8


def test_the_number_of_a_job():
    assert slurm_job({}) is None
    assert slurm_job({"SLURM_JOB_ID": "7"}) == "7"
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    assert slurm_job(array) == "5_2"
