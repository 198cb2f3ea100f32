"""The program behind ``python run.py`` and ``crvq``: check the command, then hand it to Hydra."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from crvq.cli.arguments import tidy_arguments
from crvq.cli.config_store import store_defaults
from crvq.cli.plan import Plan
from crvq.cli.preflight import check_command
from crvq.cli.search_path import conf_folder, register_plugins
from crvq.cli.typed_config import typed_config
from crvq.config import RunConfig
from crvq.errors import CrvqError
from crvq.plugins import load_plugins
from crvq.stopping import stopped_by_signals

CONFIG_NAME = "config"
USES = ("export", "import-aqlm", "generate", "chat")
"""Commands of `crvq.cli.use_model`."""


def show_error(error: CrvqError) -> None:
    """Print an error for people: what was wrong, no traceback."""
    console = Console(stderr=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, highlight=False, soft_wrap=True)


def show_stop(stop: KeyboardInterrupt) -> None:
    """Print one line on how to resume a run that was asked to stop."""
    Console(stderr=True).print(
        f"{str(stop) or 'stopped'}. Completed work is kept: the same command resumes it.",
        highlight=False,
    )


def main() -> None:
    """Run the command line.

    Exits with 2 when the command was refused before any work, with 1 when a job failed, and with
    128 + the signal's number when it was stopped by one.
    """
    try:
        # From the start: a command that is stopped while a model loads prints the same line.
        with stopped_by_signals(lambda: show_stop(KeyboardInterrupt())):
            _main()
    except KeyboardInterrupt as stop:
        show_stop(stop)
        sys.exit(getattr(stop, "exit_code", 130))


def _main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in USES:
        from crvq.cli.use_model import main as use_model  # these take no configuration

        sys.exit(use_model(sys.argv[1:]))
    if len(sys.argv) > 1 and sys.argv[1] == "report":
        from crvq.cli.report import main as report  # pandas and plotly

        sys.exit(report(sys.argv[2:]))
    # Before torch and tokenizers load: forked workers would only warn about each other.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    register_plugins()
    try:
        load_plugins()
    except CrvqError as error:
        show_error(error)
        sys.exit(2)
    store_defaults()  # again, with the plugins' methods
    sys.argv[1:] = tidy_arguments(sys.argv[1:])
    try:
        checked = check_command(sys.argv[1:], conf_folder(), CONFIG_NAME)
    except CrvqError as error:
        show_error(error)
        sys.exit(2)
    if any(flag in sys.argv[1:] for flag in ("--help", "-h")):
        from crvq.cli.help import help_text

        shown = help_text(conf_folder(), CONFIG_NAME)
        Console().print(shown, markup=False, highlight=False, soft_wrap=True)
        return
    labels = _labels(checked[0]) if checked is not None else []
    if checked is not None and any(config.dry_run for config in checked[1]):
        from crvq.cli.dry_run import show_plan  # torch and transformers

        try:
            show_plan(*checked, labels)
        except CrvqError as error:
            show_error(error)
            sys.exit(2)
        return
    if checked is not None and checked[1]:
        _announce(checked[1][0], 0, labels)

    def task(config: DictConfig) -> str:
        return job(config, labels)

    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=CONFIG_NAME)(task)()


def job(config: DictConfig, labels: Sequence[str] = ()) -> str:
    """Run one job of Hydra's; in a sweep, a failed one is Hydra's to count.

    Args:
        config: composed by Hydra.
        labels: what sets each job of the sweep apart.
    """
    from crvq.cli.job import run_job  # torch: seconds, which a refused command does not wait for

    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
    number = HydraConfig.get().job.num if sweeps else 0
    try:
        if number > 0:
            _announce(typed_config(config), number, labels)
        return run_job(config)
    except CrvqError as error:
        if sweeps:
            raise
        show_error(error)
        sys.exit(1)


def _labels(plan: Plan) -> list[str]:
    """Return for each planned job the overrides that not all jobs share."""
    shared = set.intersection(*({*job.overrides} for job in plan.jobs)) if plan.jobs else set()
    labels = [" ".join(one for one in job.overrides if one not in shared) for job in plan.jobs]
    return labels + [""] * ((plan.total or 1) - len(labels))


def _announce(config: RunConfig, number: int, labels: Sequence[str]) -> None:
    """Print a first line at once: loading libraries and a model takes a while."""
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes of torchrun one speaks
    which = ""
    if len(labels) > 1 and number < len(labels):
        which = f"job {number + 1} of {len(labels)}: {labels[number]}, "
    Console(stderr=True).print(
        f"{which}{config.method}, loading {config.model.name} ...", markup=False, highlight=False
    )
