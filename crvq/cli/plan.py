"""What a command would run: its jobs, composed by Hydra as it will compose them."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from crvq.cli.explain import check_option, explain_composition
from crvq.cli.search import TARGET as SEARCH
from crvq.cli.search import check_search
from crvq.cli.search_path import register_plugins
from crvq.cli.typed_config import resolve
from crvq.errors import ConfigError

MOST_CHECKED = 256
"""Of a larger sweep only the first jobs are composed beforehand."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of a command."""

    overrides: tuple[str, ...]
    """All overrides that are not Hydra's own, those of the sweep included."""
    config: DictConfig
    """As the job will see it, without Hydra's own section."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a command, as far as they are known beforehand."""

    jobs: list[PlannedJob]
    total: int | None
    """Number of jobs; None where a sweeper chooses them one after the other."""
    multirun: bool
    launcher: dict[str, Any] = field(default_factory=dict)
    """``hydra.launcher`` of a multirun."""


def plan_command(parsed: Namespace, conf: Path, config_name: str) -> Plan:
    """Compose every job of a command line, with Hydra's own loader and sweeper.

    Args:
        parsed: the arguments as Hydra's parser gives them.
        conf: folder of the configuration.
        config_name: the primary configuration.

    Raises:
        ConfigError: Hydra cannot compose a job; says which override is wrong, and what is there.
    """
    conf = Path(parsed.config_path or conf)
    name = parsed.config_name or config_name
    with composing(conf, parsed.config_dir) as hydra:
        return _Planner(hydra, name).plan(list(parsed.overrides), parsed.multirun)


@contextmanager
def composing(conf: Path, config_dir: str | None) -> Iterator[Hydra]:
    """Yield Hydra with the search path that `hydra.main` makes."""
    register_plugins()
    path = create_config_search_path(str(conf.absolute()))
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
        anchor = SearchPathQuery(provider="schema")
        path.prepend(provider="command-line", path=f"file://{folder}", anchor=anchor)
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("crvq", path)
    finally:
        GlobalHydra.instance().clear()


class _Planner:
    """Composes the jobs of one command."""

    def __init__(self, hydra: Hydra, config_name: str) -> None:
        self._hydra = hydra
        self._name = config_name

    def plan(self, overrides: list[str], multirun: bool) -> Plan:
        """Return the jobs of a command line."""
        for override in self._parse(overrides):
            check_option(override)
        # Hydra too reads the mode first, from a configuration without the values that are swept.
        sweep = self._compose(overrides, RunMode.MULTIRUN, validate=False)
        if not multirun and sweep.hydra.mode != RunMode.MULTIRUN:
            swept = any(one.is_sweep_override() for one in self._parse(overrides))
            job = self._compose(overrides, RunMode.RUN) if swept else sweep
            task = tuple(_task(job))
            return Plan([PlannedJob(task, _without_hydra(job))], 1, multirun=False)
        if sweep.hydra.sweeper._target_ == SEARCH:
            return self._plan_search(sweep)
        if sweep.hydra.sweeper._target_ != BasicSweeperConf._target_:
            return Plan([], None, multirun=True, launcher=_launcher(sweep))
        split = self._split(sweep)
        jobs = [self._job(sweep, job) for job in split[:MOST_CHECKED]]
        return Plan(jobs, len(split), multirun=True, launcher=_launcher(sweep))

    def _plan_search(self, sweep: DictConfig) -> Plan:
        """Compose one job of a search, with the first value of each key that is searched."""
        parsed = self._parse(_task(sweep))
        first = check_search(sweep.hydra.sweeper, parsed)
        fixed = [one.input_line or "" for one in parsed if not one.is_sweep_override()]
        job = (*fixed, *(f"{key}={value}" for key, value in first.items()))
        return Plan([self._job(sweep, job)], None, multirun=True, launcher=_launcher(sweep))

    def _parse(self, overrides: list[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self._hydra.config_loader)
        try:
            return parser.parse_overrides(overrides)
        except HydraException as error:
            raise ConfigError(explain_composition(error, overrides)) from error

    def _split(self, sweep: DictConfig) -> list[tuple[str, ...]]:
        """Return the overrides of each job, by Hydra's own sweeper: choices, ranges and globs."""
        given = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.params or {}).items()]
        given += _task(sweep)
        try:
            batches = BasicSweeper.split_arguments(self._parse(given), None)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain_composition(error, given)) from error
        return [tuple(job) for batch in batches for job in batch]

    def _compose(self, overrides: list[str], mode: RunMode, validate: bool = True) -> DictConfig:
        try:
            return self._hydra.compose_config(
                self._name, list(overrides), mode, validate_sweep_overrides=validate
            )
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            explained = explain_composition(
                error,
                overrides,
                lambda kept: self._hydra.compose_config(
                    self._name, kept, mode, validate_sweep_overrides=False
                ),
            )
            raise ConfigError(explained) from error

    def _job(self, sweep: DictConfig, overrides: tuple[str, ...]) -> PlannedJob:
        return PlannedJob(overrides, _without_hydra(self._compose_job(sweep, overrides)))

    def _compose_job(self, sweep: DictConfig, overrides: tuple[str, ...]) -> DictConfig:
        """Compose a job of a sweep as its launcher will."""
        loader = self._hydra.config_loader
        try:
            return loader.load_sweep_config(sweep, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            explained = explain_composition(
                error, overrides, lambda kept: loader.load_sweep_config(sweep, kept)
            )
            raise ConfigError(explained) from error


def _task(config: DictConfig) -> list[str]:
    """Return the overrides that are not Hydra's own, as they were typed."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return [str(override) for override in overrides]


def _launcher(sweep: DictConfig) -> dict[str, Any]:
    launcher: Any = OmegaConf.to_container(sweep.hydra.launcher, resolve=False)
    return {str(key): value for key, value in launcher.items()}


def _without_hydra(config: DictConfig) -> DictConfig:
    """Return the configuration that `hydra.main` hands to its function, values resolved."""
    known, state = HydraConfig.instance(), HydraConfig.instance().cfg
    try:
        known.set_config(config)  # values such as ${hydra:job.num}
        job = copy.deepcopy(config)
        with open_dict(job):
            del job["hydra"]
        resolve(job)
    finally:
        known.cfg = state
    return job
