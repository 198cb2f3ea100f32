"""Jobs of a sweep on several workers or on Slurm: what is checked first, and their threads."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import psutil

from crvq.errors import ConfigError

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "workers"}
"""Extra of this package that brings a launcher."""


def is_remote(launcher: Mapping[str, Any]) -> bool:
    """Return whether jobs run on other machines than the one where the command is given."""
    return launcher.get("_target_") == SLURM


def check_launcher(launcher: Mapping[str, Any]) -> None:
    """Refuse a launcher that cannot start jobs from here.

    Args:
        launcher: ``hydra.launcher``.

    Raises:
        ConfigError: there is no Slurm here, or not that partition.
    """
    if not is_remote(launcher):
        return
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm: there is no sbatch here; give the command on a machine from "
            "which Slurm takes jobs, or set hydra/launcher=joblib for workers on this one"
        )
    partition = launcher.get("partition")
    if partition is None:
        return
    answer = _slurm("sinfo", "--noheader", "--format=%R")
    known = sorted(set(answer.split()))
    missing = [one for one in str(partition).split(",") if one not in known]
    if missing:
        raise ConfigError(
            f"hydra.launcher.partition={partition}: Slurm has no partition {', '.join(missing)} "
            f"here; it has {', '.join(known)}"
        )


def _slurm(*command: str) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ConfigError(
            f"hydra/launcher=slurm: {command[0]} does not answer: {lines[-1] if lines else error}"
        ) from error
    return found.stdout


def allocated_threads(
    launcher: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> int | None:
    """Return the CPU threads that a job may use; None where nothing limits them.

    Args:
        launcher: ``hydra.launcher``.
        environment: variables; ``SLURM_CPUS_PER_TASK`` in a job of Slurm.
    """
    given = environment.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return max(1, int(given))
    if launcher.get("_target_") != JOBLIB:
        return None
    cores = len(psutil.Process().cpu_affinity() or []) or os.cpu_count() or 1
    workers = int(launcher.get("n_jobs") or 1)
    # As joblib counts: -1 is a worker for each core, -2 one less.
    workers = workers if workers > 0 else max(1, cores + 1 + workers)
    return max(1, cores // workers)
