"""The table at the end of a Hydra multirun."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from crvq.report.closing import print_closing
from crvq.report.sweep_index import (
    clear_jobs,
    remove_sweep,
    sweep_records,
    update_job,
    was_refused,
)
from crvq.tracking.record_schema import RECORD_FILE


class SweepTable(Callback):
    """Prints the closing table of all jobs of a multirun, failed and skipped ones too.

    Name it in the configuration::

        hydra:
          callbacks:
            sweep_table:
              _target_: crvq.report.sweep_callback.SweepTable

    Jobs announce where their record lies with :func:`announce_record`, or by returning the run's
    folder. The table is printed by ``on_multirun_end``; Hydra does not call that when a job
    failed (or on Ctrl-C), so it is then printed when the process ends.
    """

    def __init__(self) -> None:
        self._sweep_dir: Path | None = None
        self._process = 0
        self._made: list[Path] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Forget an earlier sweep into the same directory."""
        self._sweep_dir = _sweep_dir(config.hydra)
        self._process = os.getpid()
        above = [self._sweep_dir, *self._sweep_dir.parents]
        self._made = [folder for folder in above if not folder.exists()]
        clear_jobs(self._sweep_dir)
        atexit.register(self._show)

    def on_job_start(
        self,
        config: DictConfig,
        *,
        task_function: TaskFunction,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Enter the job; this runs where the job runs."""
        if _is_multirun(config):
            overrides = list(config.hydra.overrides.task)
            update_job(_sweep_dir(config.hydra), config.hydra.job.num, overrides=overrides)

    def on_job_end(
        self,
        config: DictConfig,
        job_return: JobReturn,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Enter how the job ended."""
        if not _is_multirun(config):
            return
        values: dict[str, str] = {}
        try:
            folder = _run_folder(job_return.return_value)
            if folder is not None:
                values = {"folder": str(folder)}
        except Exception as error:
            values = {"error_type": type(error).__name__, "error_message": str(error)}
        update_job(_sweep_dir(config.hydra), config.hydra.job.num, **values)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Print the table."""
        self._show()

    def _show(self) -> None:
        if self._sweep_dir is None or self._process != os.getpid():
            return
        sweep_dir, self._sweep_dir = self._sweep_dir, None
        records = sweep_records(sweep_dir)
        if records:
            print_closing(records, Console())
        if was_refused(sweep_dir):
            remove_sweep(sweep_dir, self._made)


def announce_record(folder: Path, reused: bool | None = None, name: str | None = None) -> None:
    """Enter where this job's record lies in the sweep's index; does nothing outside a multirun.

    Call it as soon as the run's id is known, so that a job that is killed is in the table too, and
    again when the run is over.

    Args:
        folder: the run's folder.
        reused: whether the record was there already; None where that is not known yet.
        name: the configuration's ``run.name``.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        hydra = HydraConfig.get()
        values = {"folder": str(folder.absolute()), "reused": reused, "name": name}
        update_job(_sweep_dir(hydra), hydra.job.num, **values)


def current_sweep() -> str | None:
    """Name of the multirun that this job belongs to (also W&B's group); None outside one."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return "_".join(_sweep_dir(HydraConfig.get()).parts[-2:])
    return None


def _is_multirun(config: DictConfig) -> bool:
    return config.hydra.mode == RunMode.MULTIRUN


def _sweep_dir(hydra: Any) -> Path:  # noqa: ANN401 - the hydra node of a configuration
    return Path(hydra.runtime.cwd) / hydra.sweep.dir


def _run_folder(returned: object) -> Path | None:
    """Return the run's folder, absolute, if a job returned it or its ``record.json``."""
    if not isinstance(returned, (str, Path)):
        return None
    path = Path(returned).absolute()
    folder = path.parent if path.name == RECORD_FILE else path
    return folder if (folder / RECORD_FILE).exists() else None
