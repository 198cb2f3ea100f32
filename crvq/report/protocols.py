"""Which measurements may be compared: the one place that decides it, from structured keys.

A perplexity's key stands in its record (:attr:`crvq.tracking.record_schema.PerplexityResult.key`).
Records from before that are given the same key from their configuration; where that is gone too,
the numbers of the entry are the key. Texts that describe a protocol are shown and never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from crvq.config.evaluation import PerplexityConfig

WHOLE_SAMPLE = 256
"""Windows that papers draw from texts too long to read (C4); fewer are a part of their protocol."""


@dataclass(frozen=True)
class Protocol:
    """What a perplexity or an agreement was measured on; equal ones may be compared."""

    dataset: str
    identity: str
    """The key as canonical JSON."""

    @cached_property
    def key(self) -> dict[str, Any]:
        """Return the key (:meth:`crvq.config.evaluation.PerplexityConfig.protocol_key`)."""
        found: dict[str, Any] = json.loads(self.identity)
        return found

    @property
    def is_partial(self) -> bool:
        """Whether less of the text is read than papers do."""
        count = self.key.get("count")
        return count is not None and (
            self.key.get("windows") != "drawn" or int(count) < WHOLE_SAMPLE
        )

    def label(self, detail: int = 0) -> str:
        """Return ``wikitext2, 2048``; with the cap or the number of drawn windows, if any.

        Args:
            detail: 0 is short; from 1 on stride, BOS and seed are named; from 2 on all of the key.
        """
        key = self.key
        parts = [self.dataset, str(key.get("context"))]
        if key.get("count") is not None:
            drawn = key.get("windows") == "drawn"
            count = key["count"]
            parts.append(f"{count} drawn windows" if drawn else f"first {count} windows")
        if detail == 1:
            shown = {name: key.get(name) for name in ("stride", "bos", "seed")}
            parts += [f"{name} {value}" for name, value in shown.items() if value is not None]
        if detail > 1:
            said = ("context", "count", "windows")
            parts += [_words(name, value) for name, value in key.items() if name not in said]
        return ", ".join(part for part in parts if part)

    @property
    def head(self) -> str:
        """Return the label for a column's head: ``wikitext2 8x2048`` (windows by context)."""
        key = self.key
        count = "" if key.get("count") is None else f"{key['count']}x"
        drawn = " drawn" if key.get("windows") == "drawn" else ""
        return f"{self.dataset} {count}{key.get('context')}{drawn}"


def protocol_of(
    dataset: str, entry: Mapping[str, Any], config: Mapping[str, Any] | None
) -> Protocol:
    """Return the protocol of one entry of ``perplexity`` or ``agreement``.

    Args:
        dataset: its name in the record.
        entry: the section of the record.
        config: the text's part of the record's configuration (``eval.perplexity.NAME``), if known.
    """
    key = entry.get("key") or _derived(entry, config) or _from_numbers(entry)
    return Protocol(dataset, json.dumps(key, sort_keys=True, default=str))


def record_protocol(record: Mapping[str, Any], section: str, dataset: str) -> Protocol:
    """Return the protocol of an entry of a whole record; ``section`` as in the record."""
    texts = ((record.get("config") or {}).get("eval") or {}).get("perplexity") or {}
    return protocol_of(dataset, record[section][dataset], texts.get(dataset))


def protocol_names(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """Return one label each, as short as it can be without two being equal."""
    known = list(dict.fromkeys(protocols))
    labels = {}
    for protocol in known:
        for detail in range(3):
            labels[protocol] = protocol.label(detail)
            if sum(other.label(detail) == labels[protocol] for other in known) == 1:
                break
    return labels


def protocol_heads(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """Return :attr:`Protocol.head`, numbered where that does not tell protocols apart."""
    heads: dict[Protocol, str] = {}
    for protocol in dict.fromkeys(protocols):
        same = sum(other.head == protocol.head for other in heads)
        heads[protocol] = f"{protocol.head} #{same + 1}" if same else protocol.head
    return heads


def _derived(entry: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the key that a record of today would have; None if its configuration is unknown."""
    if not config:
        return None
    known = {key: value for key, value in config.items() if key in PerplexityConfig.model_fields}
    try:
        text = PerplexityConfig.model_validate(known)
    except ValidationError:
        return None
    windows = entry.get("windows")
    if windows is None:
        return None
    return text.protocol_key(
        str(entry.get("bos") or "none"), int(windows), entry.get("windows_available")
    )


def _from_numbers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry without a known configuration says itself, its description unread."""
    windows, available = entry.get("windows"), entry.get("windows_available")
    capped = windows is not None and available is not None and available > windows
    return {
        "context": entry.get("context"),
        "windows": "consecutive",
        "count": windows if capped else None,
        "stride": entry.get("stride"),
        "tokens": entry.get("tokens"),
        "described": entry.get("protocol"),
    }


def _words(name: str, value: object) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item!r}" for key, item in value.items())
    return str(value) if name == "described" else f"{name} {value}"
