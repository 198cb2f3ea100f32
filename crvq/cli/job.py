"""What one Hydra job does."""

from __future__ import annotations

import os

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from crvq.cli.launchers import allocated_threads
from crvq.cli.typed_config import comparison, typed_config, with_params
from crvq.pipeline.run import execute, run_folder
from crvq.report.closing import print_closing
from crvq.report.placed_record import placed_record
from crvq.report.sweep_callback import announce_record, current_sweep
from crvq.team import is_first

DEMO_COMPARISON = {"critical_ratio": 0.0}
"""Method parameters of the run that the demo shows next to its own."""


def run_job(config: DictConfig) -> str:
    """Run a composed configuration; outside a sweep, print the closing table.

    Returns:
        The run's folder.
    """
    hydra = HydraConfig.get()
    # Workers of a cluster may start elsewhere; relative paths are those of the command.
    os.chdir(hydra.runtime.cwd)
    typed = typed_config(config)
    threads = allocated_threads(hydra.launcher)
    if typed.threads is None and threads is not None and hydra.mode == RunMode.MULTIRUN:
        torch.set_num_threads(threads)
    announce_record(run_folder(typed), name=typed.run.name)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        # The sweep prints one table for all of its jobs.
        outcome = execute(typed, sweep=current_sweep())
        announce_record(outcome.folder, outcome.reused, typed.run.name)
        return str(outcome.folder)
    # The demo, `python run.py` without anything after it, shows what critical channels are worth.
    plain = not HydraConfig.get().overrides.task
    changes = DEMO_COMPARISON if plain else comparison(config)
    compared = with_params(typed, changes) if changes else typed
    # The run asked for comes first; what it is compared with is another run.
    wanted = {run_folder(each): each for each in (typed, compared)}
    outcomes = [execute(each) for each in wanted.values()]
    if not is_first():
        return str(outcomes[0].folder)  # process 0 writes the records, and shows them
    records = [placed_record(outcome.folder, outcome.reused) for outcome in outcomes]
    if typed.run.name is not None:  # what it is compared with is another run
        records[0] = placed_record(outcomes[0].folder, outcomes[0].reused, typed.run.name)
    print_closing(records[::-1], asked=records[0])
    return str(outcomes[0].folder)
