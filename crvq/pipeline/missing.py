"""Which measurements a finished run's record lacks."""

from __future__ import annotations

from crvq.config import EvalConfig, PerplexityConfig, ZeroShotConfig
from crvq.tracking.record_schema import Record


def missing_evaluation(
    record: Record, done: EvalConfig, wanted: EvalConfig, quantizes: bool, again: bool = False
) -> EvalConfig:
    """Return what of ``wanted`` is not in ``record``.

    A dataset whose name is taken by another protocol gets its own name
    (``wikitext2_4096`` next to ``wikitext2``): what was measured stays.

    Args:
        record: of the finished run.
        done: its eval group.
        wanted: what is asked for now.
        quantizes: whether the run's method quantizes.
        again: whether to measure again what is there.
    """
    missing = {
        name: None if getattr(done, name) == getattr(wanted, name) and not again else asked
        for name, asked in wanted
    }
    names = {
        name: name if again else _own_name(name, dataset, done.perplexity)
        for name, dataset in wanted.perplexity.items()
    }
    which = "quantized" if quantizes else "full_precision"
    missing["perplexity"] = {
        names[name]: dataset
        for name, dataset in wanted.perplexity.items()
        # A value whose dataset is not in ``done`` is left from an attempt that failed later on:
        # its protocol is unknown.
        if again
        or names[name] not in done.perplexity
        or getattr(record.perplexity.get(names[name]), which, None) is None
    }
    missing["zero_shot"] = _tasks_missing(done.zero_shot, wanted.zero_shot, again)
    missing["agreement"] = None
    if quantizes and wanted.agreement is not None and wanted.agreement_dataset is not None:
        dataset, most = names[wanted.agreement_dataset], wanted.agreement.max_windows
        if again or not _agreement_is_known(record, dataset, most):
            missing["agreement"] = wanted.agreement.model_copy(update={"dataset": dataset})
    return wanted.model_copy(update=missing)


def is_empty(config: EvalConfig) -> bool:
    """Return whether nothing at all is asked for."""
    return not any(asked for _, asked in config)


def with_added(done: EvalConfig, added: EvalConfig) -> EvalConfig:
    """Return the eval group of a record after ``added`` was measured too."""
    changes = {name: asked for name, asked in added if asked and name != "perplexity"}
    changes["perplexity"] = {**done.perplexity, **added.perplexity}
    if done.zero_shot is not None and added.zero_shot is not None:
        tasks = dict.fromkeys([*done.zero_shot.tasks, *added.zero_shot.tasks])
        if _put_alike(done.zero_shot, added.zero_shot):
            changes["zero_shot"] = added.zero_shot.model_copy(update={"tasks": tuple(tasks)})
    return done.model_copy(update=changes)


def _tasks_missing(
    done: ZeroShotConfig | None, wanted: ZeroShotConfig | None, again: bool
) -> ZeroShotConfig | None:
    """Return the zero-shot tasks that were not measured yet, or were put in another way."""
    if done is None or wanted is None or again or not _put_alike(done, wanted):
        return wanted
    tasks = tuple(task for task in wanted.tasks if task not in done.tasks)
    return wanted.model_copy(update={"tasks": tasks}) if tasks else None


def _put_alike(one: ZeroShotConfig, other: ZeroShotConfig) -> bool:
    """Return whether both ask questions in the same way, be they the same tasks or not."""
    return one.model_copy(update={"tasks": other.tasks}) == other


def _own_name(name: str, dataset: PerplexityConfig, taken: dict[str, PerplexityConfig]) -> str:
    """``name``, or one made from it where another protocol has that name already."""
    candidates = [name, f"{name}_{dataset.context}"]
    candidates += [f"{name}_{dataset.context}_{number}" for number in range(2, len(taken) + 3)]
    return next(own for own in candidates if taken.get(own, dataset) == dataset)


def _agreement_is_known(record: Record, dataset: str, most: int | None) -> bool:
    entry, text = record.agreement.get(dataset), record.perplexity.get(dataset)
    if entry is None or text is None or text.windows is None:
        return False
    return entry.windows == min(text.windows, most or text.windows)
