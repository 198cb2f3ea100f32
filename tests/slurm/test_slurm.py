"""A sweep on a real Slurm: one job killed and requeued, one out of time; nothing is done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crvq.tracking.record_schema import read_record
from tests.conftest import ROOT
from tests.slurm.cluster import available, cluster, slurm

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not available(), reason="apt-get install slurm-wlm munge, as root"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def command(overrides, *more):
    return [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=slurm", *overrides, *more]


def records(results: Path) -> list[dict]:
    found = [read_record(path) for path in sorted(results.glob("default/[!.]*")) if path.is_dir()]
    return [one for one in found if one]


def test_a_sweep_of_four_with_a_killed_and_a_timed_out_job(environment, tiny_overrides, tmp_path):
    # Longer than the time that a job has before it is told to make room for others.
    asked = command(
        tiny_overrides,
        "finetune=block",
        "finetune.samples=8",
        "finetune.block.epochs=500",
        "seed=0,1,2,3",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=2",
        "hydra.launcher.signal_delay_s=45",
        "+hydra.launcher.additional_parameters={requeue: true}",
    )
    running = subprocess.Popen(
        asked, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    results = tmp_path / "results"
    killed = _kill_a_job_at_work(environment, results)
    output, _ = running.communicate(timeout=1500)
    assert running.returncode == 0, output
    done = records(results)
    assert [one["status"] for one in done] == ["complete"] * 4
    assert all(one["attempts"][-1]["slurm_job"] for one in done)
    assert all(one["threads"] == 1 for one in done)
    resumed = [one for one in done if len(one["attempts"]) > 1]
    assert any(one["run_id"] == killed for one in resumed)
    assert len(resumed) > 1  # the others ran out of time
    assert all(one["resumes"] for one in resumed)
    again = subprocess.run(
        asked, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    # Nothing is computed twice: the records are the very same.
    assert json.dumps(records(results), default=str) == json.dumps(done, default=str)


def test_a_partition_that_is_not_there_is_said_before_work(environment, tiny_overrides, tmp_path):
    found = subprocess.run(
        command(tiny_overrides, "hydra.launcher.partition=gpu", "seed=0,1"),
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 2
    assert "Slurm has no partition gpu here; it has debug" in found.stderr
    assert not (tmp_path / "results").exists()


def _kill_a_job_at_work(environment: dict[str, str], results: Path) -> str:
    """Kill a running job after its first block, and let Slurm queue it again; its run."""
    for _ in range(600):
        for record in results.glob("default/*/record.json"):
            values = json.loads(record.read_text())
            job = values["attempts"][-1]["slurm_job"]
            if values["status"] == "running" and list(record.parent.glob("checkpoint/block-*")):
                os.kill(values["attempts"][-1]["pid"], 9)
                slurm(environment, "scontrol", "requeue", job)
                return values["run_id"]
        time.sleep(0.1)
    raise AssertionError("no job began to work")
