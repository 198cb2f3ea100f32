"""Zero-shot scores of a loaded model through lm-evaluation-harness."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any, Protocol

import torch
from lm_eval import evaluator
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crvq.evaluation.continuation_lm import ContinuationLM
from crvq.evaluation.quiet_harness import harness_seeds, quiet_harness
from crvq.evaluation.zero_shot_loading import LoadedTask, LoadedTasks, leaves
from crvq.evaluation.zero_shot_result import ZeroShotResult, scores_of


class Progress(Protocol):
    """Hears how far a task is."""

    def task_started(self, task: str, requests: int) -> None:
        """A task begins; it has so many requests (options, mostly)."""

    def requests_done(self, task: str, count: int) -> None:
        """So many more requests are done."""

    def task_finished(self, task: str, seconds: float) -> None:
        """A task is over."""


class NoProgress:
    """Hears nothing."""

    def task_started(self, task: str, requests: int) -> None:
        """Nothing."""

    def requests_done(self, task: str, count: int) -> None:
        """Nothing."""

    def task_finished(self, task: str, seconds: float) -> None:
        """Nothing."""


def zero_shot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: LoadedTasks,
    activation_dtype: torch.dtype,
    progress: Progress | None = None,
) -> ZeroShotResult:
    """Put tasks to a model; one after the other, so that no score depends on what else is asked.

    Prompts, metrics, standard errors and seeds are those of the `lm_eval` command.

    Args:
        model: in eval mode, on its device.
        tokenizer: the model's.
        tasks: from :func:`crvq.evaluation.zero_shot_loading.load_tasks`.
        activation_dtype: float32, or bfloat16 by autocast.
        progress: hears how far it is.

    Raises:
        QuantizationError: the model's output is NaN or infinite; names the module.
    """
    progress = progress or NoProgress()
    config = tasks.config
    begun = time.perf_counter()
    scores = {}
    with quiet_harness(), harness_seeds():
        lm = ContinuationLM(
            model, tokenizer, config.batch_size, activation_dtype, config.share_context
        )
        for task in tasks.tasks:
            results = _ask(lm, task, config.limit, progress)
            scores.update(scores_of(results, leaves(task.members), task.data))
    return ZeroShotResult(
        tasks=scores,
        lm_eval=version("lm_eval"),
        source=tasks.source,
        limit=config.limit,
        batch_size=config.batch_size,
        activation_dtype=str(activation_dtype).removeprefix("torch."),
        shares_context=bool(lm.shares_context),
        requests=lm.work.requests,
        tokens=lm.work.tokens,
        computed_tokens=lm.work.computed_tokens,
        truncated=lm.work.truncated,
        seconds=time.perf_counter() - begun,
        digests={task.name: task.digest for task in tasks.tasks},
    )


def _ask(
    lm: ContinuationLM, task: LoadedTask, limit: int | None, progress: Progress
) -> dict[str, Any]:
    """lm-eval's results for one task."""
    begun = time.perf_counter()
    for leaf in leaves(task.members):
        leaf.set_fewshot_seed(DEFAULT_OTHER_SEED)
    lm.listen(
        on_start=lambda count: progress.task_started(task.name, count),
        on_requests=lambda count: progress.requests_done(task.name, count),
    )
    loaded = TaskManager(include_defaults=False).load(list(task.members))
    results = evaluator.evaluate(lm, loaded, limit=limit, log_samples=False)
    progress.task_finished(task.name, time.perf_counter() - begun)
    assert results is not None  # None is for other processes of a distributed run
    return dict(results)
