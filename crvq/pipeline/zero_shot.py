"""Zero-shot tasks; full precision's scores are remembered between runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from crvq.config import ZeroShotConfig
from crvq.models.digest import tokenizer_digest
from crvq.pipeline.context import RunContext
from crvq.tracking.events import RunListener

if TYPE_CHECKING:
    from crvq.evaluation.zero_shot import ZeroShotResult
    from crvq.evaluation.zero_shot_loading import LoadedTask


class ZeroShotMeasure:
    """Puts each task to the model; a task measured before in full precision is looked up.

    Args:
        context: of the run.
        config: tasks and how they are put.

    Raises:
        ConfigError, SourceError: tasks that are not known or whose questions are unavailable.
    """

    def __init__(self, context: RunContext, config: ZeroShotConfig) -> None:
        # lm-eval takes seconds to import, and most runs do without it.
        from crvq.evaluation.zero_shot_loading import load_tasks

        self._context = context
        self._tasks = load_tasks(config, context.cache)
        self._tokenizer = tokenizer_digest(context.loaded.tokenizer)

    def full_precision(self) -> None:
        """Look the scores up, or measure and remember them."""
        if self._tasks.message is not None:
            self._context.listener.message(self._tasks.message)
        for task in self._tasks.tasks:
            known = self._find(task)
            result = known or self._measure(task, "full precision")
            if known is None:
                values = result.model_dump(mode="json")
                self._context.known.keep(values, *self._key(task))
            self._record("full_precision", result)

    def quantized(self) -> None:
        """Measure."""
        if _calibrated_on_boolq(self._context) and "boolq" in self._tasks.config.tasks:
            self._context.listener.message(
                "boolq asks about passages of the text that this run was calibrated on; calibrate "
                "on other text (calibration.path=FILE) before reporting it"
            )
        for task in self._tasks.tasks:
            self._record("quantized", self._measure(task, "quantized"))

    def _find(self, task: LoadedTask) -> ZeroShotResult | None:
        from crvq.evaluation.zero_shot_result import ZeroShotResult

        values = self._context.known.find(*self._key(task))
        try:
            return None if values is None else ZeroShotResult.model_validate(values)
        except ValidationError:
            return None

    def _key(self, task: LoadedTask) -> tuple[str, ...]:
        return "zero-shot", task.digest, self._tokenizer

    def _measure(self, task: LoadedTask, label: str) -> ZeroShotResult:
        from crvq.evaluation.zero_shot import zero_shot

        context = self._context
        return zero_shot(
            context.model,
            context.loaded.tokenizer,
            replace(self._tasks, tasks=(task,)),
            context.activation_dtype,
            _Stages(context.listener, label),
        )

    def _record(self, which: str, result: ZeroShotResult) -> None:
        how = result.model_dump(
            include={"lm_eval", "source", "limit", "batch_size", "activation_dtype"}
        )
        speed = {
            "requests": result.requests,
            "tokens": result.tokens,
            "computed_tokens": result.computed_tokens,
            "truncated": result.truncated,
            "shares_context": result.shares_context,
            "seconds": result.seconds,
        }
        for name, scores in result.tasks.items():
            entry: dict[str, Any] = scores.model_dump(exclude={"metrics"})
            self._context.results.set_zero_shot(
                name,
                {
                    metric: {
                        which: score.value,
                        f"{which}_stderr": score.stderr,
                        "chance": score.chance,
                    }
                    for metric, score in scores.metrics.items()
                },
                **entry,
                **how,
                **{f"{which}_work": speed},
            )


class _Stages:
    """A task's progress as a stage of the run."""

    def __init__(self, listener: RunListener, label: str) -> None:
        self._listener, self._label = listener, label

    def task_started(self, task: str, requests: int) -> None:
        self._listener.stage_started(self._stage(task), requests)

    def requests_done(self, task: str, count: int) -> None:
        for _ in range(count):
            self._listener.stage_advanced(self._stage(task))

    def task_finished(self, task: str, seconds: float) -> None:
        self._listener.stage_finished(self._stage(task), seconds)

    def _stage(self, task: str) -> str:
        return f"{task} of {self._label}"


def _calibrated_on_boolq(context: RunContext) -> bool:
    """Return whether calibration text is made of BoolQ's passages."""
    calibration = context.config.calibration
    return calibration.source == "boolq_wikipedia" and calibration.path is None
