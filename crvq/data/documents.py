"""Documents as read from a source."""

from __future__ import annotations

import random
from dataclasses import dataclass

from crvq.config.text import TextConfig
from crvq.errors import SourceError


@dataclass(frozen=True)
class Documents:
    """Texts in a stable order, and where they came from."""

    texts: list[str]
    description: str
    """For records, e.g. ``Salesforce/wikitext wikitext-2-raw-v1 test``."""
    separator: str = "\n\n"
    """What stands between two texts when they are joined."""


def chosen(texts: list[str], config: TextConfig) -> list[str]:
    """Return the ``max_documents`` texts that ``config`` asks for: the first, or a seeded draw."""
    if config.shuffle_seed is not None:
        texts = random.Random(config.shuffle_seed).sample(texts, len(texts))
    return texts[: config.max_documents]


def check_unicode(documents: Documents) -> None:
    """Refuse texts with half of a surrogate pair, which no tokenizer can encode.

    JSON can express one (``"\\ud83d"``), and so can a text that was cut inside an emoji.

    Raises:
        SourceError: names the document and the place.
    """
    for number, text in enumerate(documents.texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                f"{documents.description}: document {number} has the lone surrogate "
                f"{text[error.start]!a} at character {error.start}, which is no text; remove it "
                "from the file, or replace it by U+FFFD"
            ) from error


def require_text(documents: Documents) -> Documents:
    """Refuse documents without a single visible character, and what is no text at all.

    Raises:
        SourceError: there is no text, or a document is not a string or not valid Unicode.
    """
    for number, text in enumerate(documents.texts):
        if not isinstance(text, str):
            raise SourceError(
                f"{documents.description}: document {number} is {type(text).__name__}, not text"
            )
    check_unicode(documents)
    if not any(text.strip() for text in documents.texts):
        raise SourceError(
            f"{documents.description} holds no text ({len(documents.texts)} documents, all blank); "
            "give another text, or another column"
        )
    return documents
