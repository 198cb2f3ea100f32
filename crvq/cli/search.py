"""A sweeper that searches: Optuna proposes runs, their records say how good they were.

``hydra-optuna-sweeper`` 1.3.0 still wants optuna below 3 and reads no record, so this is one of our
own, over Optuna's ask-and-tell interface. Every trial is an ordinary run: one that is finished
already is not computed again, and an interrupted search resumes.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
)
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from crvq.errors import ConfigError

TARGET = "hydra_plugins.crvq_search.OptunaSweeper"
OBJECTIVES = ("perplexity", "bits", "seconds")
Suggest = Callable[[Any], str]
"""Draws a value with a trial; returns it as an override has it."""


def check_search(settings: DictConfig, overrides: Sequence[Override]) -> dict[str, str]:
    """Check a search before its first trial.

    Args:
        settings: ``hydra.sweeper``.
        overrides: of the command line.

    Returns:
        A value for every key that is searched, to compose one job with.

    Raises:
        ConfigError: Optuna is missing, an objective is unknown, or there is nothing to search.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "hydra/sweeper=optuna: the package optuna is not installed; run `pip install "
            "'crvq[search]'` (in a checkout `pip install -c constraints.txt -e '.[search]'`)"
        )
    for objective in settings.objectives:
        if objective.partition("@")[0] not in OBJECTIVES:
            raise ConfigError(
                f"hydra.sweeper.objectives: {objective} is unknown; allowed are "
                f"{', '.join(OBJECTIVES)}, and perplexity@NAME for one text of eval.perplexity"
            )
    searched = {one.get_key_element(): one for one in overrides if one.is_sweep_override()}
    if not searched:
        raise ConfigError(
            "hydra/sweeper=optuna has nothing to search; give at least one key an interval, a "
            "range or choices: 'crvq.critical_ratio=interval(0,0.1)' 'crvq.codebook_bits=8,9,10'"
        )
    return {key: _first(one) for key, one in searched.items()}


def _first(override: Override) -> str:
    """Return the lowest or first value of a sweep."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return str(value.start)
    if isinstance(value, RangeSweep):
        return str(value.start)
    return str(next(iter(override.sweep_string_iterator())))


def suggestion(override: Override) -> Suggest:
    """Return how a trial draws a key's value: from an interval, a range, or among choices."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        low, high, log = float(value.start), float(value.end), "log" in value.tags
        return lambda trial: repr(trial.suggest_float(key, low, high, log=log))
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        first, step = value.start, value.step
        last = value.stop - step  # Hydra's range ends before its stop
        if all(isinstance(one, int) for one in (first, value.stop, step)):
            return lambda trial: str(trial.suggest_int(key, first, last, step=step))
        return lambda trial: repr(trial.suggest_float(key, first, last, step=step))
    assert isinstance(value, ChoiceSweep)
    choices = list(override.sweep_string_iterator())
    return lambda trial: str(trial.suggest_categorical(key, choices))


class OptunaSweeper(Sweeper):
    """Minimizes what records say of the runs that Optuna proposes.

    Args:
        n_trials: trials in all, those of an interrupted search included.
        n_jobs: trials at once; give the launcher as many workers.
        objectives: what is minimized; several give a set of runs of which none is better in all.
        seed: of Optuna's sampler.
        study: a name; searches of the same name and storage are one.
        storage: the file in which Optuna keeps its trials, as lines of JSON.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        objectives: Sequence[str],
        seed: int,
        study: str,
        storage: str,
        params: DictConfig | None = None,
    ) -> None:
        self._n_trials, self._n_jobs = n_trials, n_jobs
        self._objectives = list(objectives)
        self._seed, self._name, self._storage = seed, study, Path(storage)
        self._params: dict[str, Any] = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands to every sweeper."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401 - as Hydra has it
        """Run trials until there are enough, and print the best."""
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        given = [f"{key}={value}" for key, value in self._params.items()] + arguments
        parsed = parser.parse_overrides(given)
        fixed = [one.input_line or "" for one in parsed if not one.is_sweep_override()]
        suggestions = {
            one.get_key_element(): suggestion(one) for one in parsed if one.is_sweep_override()
        }
        study = self._study(sorted(suggestions), fixed)
        done, number = self._done(study), 0
        while done < self._n_trials:
            trials = [study.ask() for _ in range(min(self._n_jobs, self._n_trials - done))]
            jobs = []
            for trial in trials:
                drawn = [f"{key}={draw(trial)}" for key, draw in suggestions.items()]
                jobs.append([*fixed, *drawn])
            returns = self._launcher.launch(jobs, initial_job_idx=number)
            for trial, returned in zip(trials, returns, strict=True):
                self._report(study, trial, returned)
            number += len(trials)
            done = self._done(study)
        self._print(study)
        return [trial.params for trial in study.best_trials]

    def _study(self, keys: list[str], fixed: list[str]) -> Any:  # noqa: ANN401 - an optuna.Study
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self._storage)))
        study = optuna.create_study(
            study_name=self._name,
            storage=storage,
            directions=["minimize"] * len(self._objectives),
            load_if_exists=True,
        )
        asked = {"keys": keys, "fixed": sorted(fixed), "objectives": self._objectives}
        known = study.user_attrs.get("asked")
        if known is not None and known != asked:
            raise ConfigError(
                f"hydra.sweeper.study={self._name} in {self._storage} searched "
                f"{json.dumps(known)}, and this command asks for {json.dumps(asked)}; set another "
                "hydra.sweeper.study, or give the same command"
            )
        study.set_user_attr("asked", asked)
        # A resumed search must not draw the first trials' numbers again.
        seed = self._seed + len(study.trials)
        several = len(self._objectives) > 1
        samplers = optuna.samplers
        study.sampler = (
            samplers.NSGAIISampler(seed=seed) if several else samplers.TPESampler(seed=seed)
        )
        return study

    def _done(self, study: Any) -> int:  # noqa: ANN401 - an optuna.Study
        from optuna.trial import TrialState

        return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))

    def _report(self, study: Any, trial: Any, returned: JobReturn) -> None:  # noqa: ANN401
        from optuna.trial import TrialState

        try:
            if returned.status != JobStatus.COMPLETED:
                _ = returned.return_value  # raises what the job raised
            record = record_in(Path(str(returned.return_value)))
            values = [measured(record, one) for one in self._objectives]
            trial.set_user_attr("record", record["run_id"])
            study.tell(trial, values)
        except Exception as error:  # one failed run does not end a search
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            study.tell(trial, state=TrialState.FAIL)
            Console(stderr=True).print(
                f"trial {trial.number} failed: {error}", markup=False, highlight=False
            )

    def _print(self, study: Any) -> None:  # noqa: ANN401 - an optuna.Study
        best = sorted(study.best_trials, key=lambda trial: trial.values)
        title = "best trial" if len(self._objectives) == 1 else "trials of which none is beaten"
        table = Table(title=f"{self._name}: {title} of {len(study.trials)}", title_justify="left")
        table.add_column("trial", justify="right")
        for objective in self._objectives:
            table.add_column(objective, justify="right")
        table.add_column("overrides", overflow="fold")
        table.add_column("run", overflow="fold")
        for trial in best:
            drawn = " ".join(f"{key}={value}" for key, value in trial.params.items())
            numbers = [f"{value:.4g}" for value in trial.values]
            run = trial.user_attrs.get("record", "")
            table.add_row(str(trial.number), *numbers, drawn, run)
        Console().print(table)


# Hydra takes plugins of the namespace package hydra_plugins alone: hydra_plugins/crvq_search.py.
OptunaSweeper.__module__ = TARGET.rpartition(".")[0]


def record_in(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run."""
    from crvq.tracking.record_schema import read_record  # not needed to read a command

    return read_record(folder)


def measured(record: dict[str, Any], objective: str) -> float:
    """Return what a record says of an objective.

    Args:
        record: of a finished run.
        objective: ``perplexity`` (of the only or first text), ``perplexity@NAME``, ``bits`` per
            quantized weight, or ``seconds`` of the whole run.

    Raises:
        ConfigError: the record does not have it.
    """
    kind, _, text = objective.partition("@")
    if kind == "perplexity":
        texts = record.get("perplexity") or {}
        name = text or next(iter(texts), "")
        value = (texts.get(name) or {}).get("quantized")
    elif kind == "bits":
        value = (record.get("bits") or {}).get("average_quantized_weights")
    else:
        value = (record.get("seconds") or {}).get("all")
    if value is None:
        raise ConfigError(f"the record {record.get('run_id')} has no {objective}")
    return float(value)
