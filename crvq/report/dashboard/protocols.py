"""Names of datasets under which only numbers stand together that may be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from crvq.report.perplexity_columns import todays_words
from crvq.report.run_labels import Record

Protocol = tuple[str, int | None, int | None, str | None]
"""Dataset, context, tokens, and the protocol in words."""


def protocol_names(records: Iterable[Record]) -> dict[Protocol, str]:
    """A name for every protocol among ``records``: the dataset's, with what tells it apart.

    Context and number of tokens are added where a dataset was read in several ways, and a number
    where that does not tell them apart either.
    """
    found = list(
        dict.fromkeys(
            protocol(dataset, entry)
            for record in records
            for dataset, entry in (record.get("perplexity") or {}).items()
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


def protocol(dataset: str, entry: dict[str, Any]) -> Protocol:
    """What two perplexities must share to be compared."""
    words = entry.get("protocol")
    words = None if words is None else todays_words(words)
    return dataset, entry.get("context"), entry.get("tokens"), words
