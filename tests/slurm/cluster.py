"""A real Slurm of one node on this machine, from Debian's slurm-wlm and munge packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=8
SchedulerParameters=sched_interval=2,requeue_setup_env_fail
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def available() -> bool:
    """Return whether Slurm is installed and can be started (by root)."""
    programs = ("slurmctld", "slurmd", "munged", "sbatch")
    return os.geteuid() == 0 and all(shutil.which(one) for one in programs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm in a folder; yields the environment for its commands."""
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 1000
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            host=host,
            folder=folder,
            ctld_port=free_port(),
            d_port=free_port(),
            cpus=os.cpu_count(),
            memory=memory,
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    if not Path("/run/munge/munge.socket.2").exists():
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    daemons = [
        subprocess.Popen(["slurmctld", "-D", "-f", str(conf)], env=environment),
        subprocess.Popen(["slurmd", "-D", "-f", str(conf), "-N", host], env=environment),
    ]
    try:
        _wait_for_node(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        time.sleep(1)
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(20)


def slurm(environment: dict[str, str], *command: str) -> str:
    """Run a command of Slurm's; returns what it prints."""
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return found.stdout


def _wait_for_node(environment: dict[str, str]) -> None:
    for _ in range(60):
        found = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        if found.stdout.strip() in ("idle", "mixed"):
            return
        time.sleep(1)
    raise RuntimeError(f"Slurm does not come up: {found.stdout} {found.stderr}")
