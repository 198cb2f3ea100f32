"""Names of texts and tasks under which only numbers stand together that may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crvq.report.run_labels import Record
from crvq.report.zero_shot_columns import task_label

Protocol = tuple[str, int | None, int | None, str | None]
"""Dataset, context, tokens, and the protocol in words."""


@dataclass(frozen=True)
class ProtocolNames:
    """What distinguishes protocols among all runs of a page."""

    perplexity: Mapping[Protocol, str]
    """By what two perplexities must share to be compared."""
    agreement: Mapping[Protocol, str]
    """The same of comparisons with full precision."""
    sources: bool
    """Whether zero-shot questions come from several places, so that labels must say which."""
    task_sets: Mapping[tuple[str, ...], str]
    """What an average's name says of its tasks, by their labels; empty if all runs have one set."""

    def tasks(self, record: Record) -> dict[str, dict[str, Any]]:
        """Return a run's zero-shot tasks by label: the name, shots, and the limit, if any."""
        return _tasks(record, self.sources)


def protocol_names(records: Iterable[Record]) -> ProtocolNames:
    """A name for every protocol among ``records``: the dataset's, with what distinguishes it.

    Context and number of tokens are added where a dataset was read in several ways, and a number
    where that does not distinguish them either. Sets of zero-shot tasks are named by their number
    and limit, or by all tasks where that is not enough.
    """
    records = list(records)
    sources = {
        entry.get("source")
        for record in records
        for entry in (record.get("zero_shot") or {}).values()
    }
    several = len(sources - {None}) > 1
    sets = [tuple(sorted(_tasks(record, several))) for record in records]
    return ProtocolNames(
        perplexity=_names(records, "perplexity"),
        agreement=_names(records, "agreement"),
        sources=several,
        task_sets=_set_names(list(dict.fromkeys(one for one in sets if one))),
    )


def protocol(dataset: str, entry: dict[str, Any]) -> Protocol:
    """Return what two perplexities, or two comparisons with full precision, must share."""
    return dataset, entry.get("context"), entry.get("tokens"), entry.get("protocol")


def _names(records: Sequence[Record], section: str) -> dict[Protocol, str]:
    found = list(
        dict.fromkeys(
            protocol(dataset, entry)
            for record in records
            for dataset, entry in (record.get(section) or {}).items()
        )
    )
    names: dict[Protocol, str] = {}
    for one in found:
        dataset, context, tokens, _ = one
        name = dataset
        if sum(other[0] == dataset for other in found) > 1:
            name = f"{dataset} (context {context}, {tokens or 0:,} tokens)"
        same = sum(taken == name or taken.startswith(f"{name} #") for taken in names.values())
        names[one] = f"{name} #{same + 1}" if same else name
    return names


def _tasks(record: Record, sources: bool) -> dict[str, dict[str, Any]]:
    tasks = record.get("zero_shot") or {}
    return {task_label(task, entry, sources): entry for task, entry in tasks.items()}


def _set_names(sets: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    if len(sets) < 2:
        return dict.fromkeys(sets, "")
    short = {labels: _short_set(labels) for labels in sets}
    taken = list(short.values())
    return {
        labels: f" over {name if taken.count(name) == 1 else '; '.join(labels)}"
        for labels, name in short.items()
    }


def _short_set(labels: Sequence[str]) -> str:
    """``6 tasks, first 100``; the limit only where it is that of all."""
    tails = {label.partition(", ")[2] for label in labels}
    tail = tails.pop() if len(tails) == 1 else ""
    return f"{len(labels)} tasks" + (f", {tail}" if tail else "")
