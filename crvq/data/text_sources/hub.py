"""Datasets of the Hugging Face hub, read once and kept."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import load_dataset

from crvq.config.text import TextConfig
from crvq.data.documents import Documents, require_text
from crvq.data.registry import text_source
from crvq.errors import ConfigError, SourceError
from crvq.files.digests import DamagedFileError, read_digested_json
from crvq.sources.cache import remember
from crvq.sources.hub import (
    dataset_commit,
    hub_problem,
    offline_where_unreachable,
    why_unreachable,
)

STREAMED_DOCUMENTS = 20_000
"""Up to so many first documents are streamed, instead of downloading the whole dataset."""


@text_source("hub")
def load(config: TextConfig, cache: Path) -> Documents:
    """Return the texts of one split.

    They are kept in ``cache``, with their digest and the commit that they are of. Where the hub
    answers they are read again if its commit is another one; where it does not, what is kept is
    used, or the cache of `datasets`.

    Raises:
        ConfigError: no repository, or a column that it does not have.
        SourceError: gated, missing or unreachable data that is not kept either.
    """
    if config.repo is None:
        raise ConfigError(
            "repo is not set, but source=hub needs it, e.g. repo=Salesforce/wikitext "
            "subset=wikitext-2-raw-v1 split=test"
        )
    parts = (config.repo, config.subset, config.data_files, config.revision, config.split)
    description = " ".join(part for part in parts if part)
    if Path(config.repo).is_dir():  # a local copy of a repository
        texts = _from_datasets(config, description, reachable=True)
    else:
        texts = _kept_or_read(config, description, cache)
    return Documents(texts, description, config.separator)


def _kept_or_read(config: TextConfig, description: str, cache: Path) -> list[str]:
    made_from = config.model_dump(
        include={
            "repo", "subset", "revision", "split", "data_files", "column", "max_documents",
            "shuffle_seed",
        }
    )  # fmt: skip
    made_from["datasets"] = version("datasets")
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
    file = cache / "hub_texts" / f"{key}.json"
    try:
        kept = read_digested_json(file)
    except (FileNotFoundError, DamagedFileError):
        kept = None
    with offline_where_unreachable() as reachable:
        commit = None
        if reachable:
            assert config.repo is not None
            try:
                commit = dataset_commit(config.repo, config.revision)
            except Exception as error:  # the hub's refusals, and its network client's errors
                raise _unreadable(config, description, error) from error
        if kept is not None and (commit is None or kept["commit"] == commit):
            return [str(text) for text in kept["texts"]]
        texts = _from_datasets(config, description, reachable)
    require_text(Documents(texts, description))
    if reachable:
        remember(file, {"made_from": made_from, "commit": commit, "texts": texts})
    return texts


def _from_datasets(config: TextConfig, description: str, reachable: bool) -> list[str]:
    try:
        return _read(config, reachable)
    except (ConfigError, SourceError):
        raise
    except Exception as error:  # datasets and its network client raise dozens of kinds
        raise _unreadable(config, description, error, reachable) from error


def _unreadable(
    config: TextConfig, description: str, error: Exception, reachable: bool = True
) -> SourceError:
    assert config.repo is not None
    what = hub_problem(error, config.repo, config.revision)
    if not reachable:
        what = f"{why_unreachable()}, and it is in no cache here ({what})"
    return SourceError(
        f"cannot read {description} from the hub or its cache: {what}\n"
        "Try one of: path=FILE_OR_FOLDER reads local text (.txt, .raw, .jsonl, .parquet) instead; "
        "calibration=wikipedia and eval=quick need no hub; what was read once is kept, and "
        "datasets in the hub's cache are read with HF_HUB_OFFLINE=1"
    )


def _read(config: TextConfig, reachable: bool) -> list[str]:
    """Stream a few first documents, or download, shuffle and select."""
    few = config.max_documents is not None and config.max_documents <= STREAMED_DOCUMENTS
    # A stream is never in a cache: without a hub the whole split may still be.
    streaming = few and config.shuffle_seed is None and reachable
    # One file is its own split, whatever split it belongs to on the hub.
    files = {config.split: config.data_files} if config.data_files else None
    rows: Any = load_dataset(
        config.repo,
        config.subset,
        split=config.split,
        data_files=files,
        revision=config.revision,
        streaming=streaming,
    )
    if rows.column_names is not None and config.column not in rows.column_names:
        raise ConfigError(
            f"column={config.column} is not in {config.repo}; it has: "
            f"{', '.join(rows.column_names)}"
        )
    if streaming:
        return [row[config.column] for row in islice(rows, config.max_documents)]
    if config.shuffle_seed is not None:
        rows = rows.shuffle(seed=config.shuffle_seed)
    if config.max_documents is not None:
        rows = rows.select(range(min(config.max_documents, len(rows))))
    return list(rows[config.column])
