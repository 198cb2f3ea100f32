"""Datasets of the Hugging Face hub."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from datasets import load_dataset

from crvq.config.text import TextConfig
from crvq.data.documents import Documents
from crvq.data.registry import text_source
from crvq.errors import ConfigError, SourceError

STREAMED_DOCUMENTS = 20_000
"""Up to so many first documents are streamed, instead of downloading the whole dataset."""


@text_source("hub")
def load(config: TextConfig, cache: Path) -> Documents:
    """The texts of one split; offline (HF_HUB_OFFLINE=1) from the hub's own cache."""
    if config.repo is None:
        raise ConfigError(
            "repo is not set, but source=hub needs it, e.g. repo=Salesforce/wikitext "
            "subset=wikitext-2-raw-v1 split=test"
        )
    description = " ".join(
        part
        for part in (config.repo, config.subset, config.data_files, config.revision, config.split)
        if part
    )
    try:
        texts = _read(config)
    except (ConfigError, SourceError):
        raise
    except Exception as error:  # datasets and its network client raise dozens of kinds
        raise SourceError(
            f"cannot read {description} from the hub or its cache: "
            f"{type(error).__name__}: {error}\nWays out: path=FILE_OR_FOLDER reads local text "
            "(.txt, .raw, .jsonl, .parquet) instead; calibration=wikipedia and eval=quick need no "
            "hub; a dataset that is already in the hub's cache is read with HF_HUB_OFFLINE=1"
        ) from error
    return Documents(texts, description, config.separator)


def _read(config: TextConfig) -> list[str]:
    """Stream a few first documents, or download, shuffle and select."""
    few = config.max_documents is not None and config.max_documents <= STREAMED_DOCUMENTS
    streaming = few and config.shuffle_seed is None
    # One file is a split of its own, whatever split it belongs to on the hub.
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
