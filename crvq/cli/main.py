"""The program behind ``python run.py`` and ``crvq``: check the command, then hand it to Hydra."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from crvq.cli.arguments import tidy_arguments
from crvq.cli.preflight import check_command
from crvq.cli.search_path import conf_folder, register_plugins
from crvq.config import RunConfig
from crvq.errors import CrvqError

CONFIG_NAME = "config"


def show_error(error: CrvqError) -> None:
    """Print an error for people: what was wrong, no traceback."""
    console = Console(stderr=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line.

    Exits with 2 when the command was refused before any work, with 1 when a job failed.
    """
    # Before torch and tokenizers load: forked workers would only warn about each other.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    register_plugins()
    sys.argv[1:] = tidy_arguments(sys.argv[1:])
    try:
        checked = check_command(sys.argv[1:], conf_folder(), CONFIG_NAME)
    except CrvqError as error:
        show_error(error)
        sys.exit(2)
    if checked is not None and checked[1]:
        _announce(checked[1][0], checked[0].total or 1)
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=CONFIG_NAME)(job)()


def job(config: DictConfig) -> str:
    """Run one job of Hydra's; in a sweep, a failed one is Hydra's to count."""
    from crvq.cli.job import run_job  # torch: seconds, which a refused command does not wait for

    try:
        return run_job(config)
    except CrvqError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        show_error(error)
        sys.exit(1)


def _announce(config: RunConfig, total: int) -> None:
    """Print a first line at once: loading libraries and a model takes a while."""
    which = f"job 1 of {total}: " if total > 1 else ""
    Console(stderr=True).print(
        f"{which}{config.method}, loading {config.model.name} ...", markup=False, highlight=False
    )
