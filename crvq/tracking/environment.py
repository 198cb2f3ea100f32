"""Where a run ran: package versions, git commit, host, processor, threads."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "crvq",
    "torch",
    "transformers",
    "datasets",
    "hydra-core",
    "omegaconf",
    "numpy",
    "safetensors",
    "lm_eval",
    "wandb",
)


def environment() -> dict[str, Any]:
    """Packages, git, host, platform, cpu and threads, as a run record keeps them."""
    return {
        "packages": package_versions(),
        "git": git_state(Path(__file__).parent),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": _threads(),
    }


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of what results depend on; None for what is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def git_state(folder: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of the checkout that ``folder`` lies in; None without one.

    A folder that git ignores (an installed package inside another checkout) is not one.
    """
    if _git(folder, "check-ignore", "-q", ".") is not None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def cpu_model() -> str | None:
    """Return the processor's name; None where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def slurm_job(variables: Mapping[str, str]) -> str | None:
    """Return the number of the job that Slurm runs this process in; None outside Slurm."""
    array, task = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else variables.get("SLURM_JOB_ID")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it is missing, slow, or fails."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _threads() -> int:
    import torch

    return torch.get_num_threads()
