"""What one Hydra job does."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from crvq.cli.typed_config import comparison, typed_config, with_params
from crvq.pipeline.run import execute, run_folder
from crvq.report.closing import print_closing
from crvq.report.placed_record import placed_record
from crvq.report.sweep_callback import announce_record, current_sweep


def run_job(config: DictConfig) -> str:
    """Run a composed configuration; outside a sweep, print the closing table.

    Returns:
        The run's folder.
    """
    typed = typed_config(config)
    announce_record(run_folder(typed))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        # The sweep prints one table for all of its jobs.
        return str(execute(typed, sweep=current_sweep()).folder)
    # Fine-tuning takes long enough: nothing is run beside it unasked.
    changes = None if typed.finetune.asked else comparison(config)
    beside = with_params(typed, changes) if changes else typed
    # The run asked for comes first; what it is compared with is a run of its own.
    wanted = {run_folder(each): each for each in (typed, beside)}
    folders = [execute(each).folder for each in wanted.values()]
    records = [placed_record(folder) for folder in folders]
    print_closing(records[::-1], asked=records[0])
    return str(folders[0])
