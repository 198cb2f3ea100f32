"""Readers of local text files, by file name ending.

What a document is differs, because documents are later joined by blank lines:

- ``.txt``: the file is one document, verbatim; joining adds nothing to it.
- ``.raw``: WikiText's own form; every line is a row, just as `datasets` gives ``wikitext-2-raw-v1``
  (a blank line is an empty row, any other keeps its newline), so that the joined text, and the
  perplexity on it, are those of papers (of its test text, GPT-2's tokenizer makes the 287,644
  tokens that transformers' documentation describes).
- ``.jsonl`` (``.jsonl.gz``, ``.json.gz``: C4's shards) and ``.parquet``: every record is a
  document, its text in a named column.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from crvq.errors import ConfigError, SourceError

Reader = Callable[[Path, str], list[str]]
"""From a file and the column that holds the text to documents."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_txt(file: Path, column: str) -> list[str]:
    """Return the whole file as one document."""
    return [_decoded(file)]


def read_raw(file: Path, column: str) -> list[str]:
    """Return the file's lines as WikiText's rows."""
    lines = _decoded(file).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line + "\n" if line.strip() else "" for line in lines]


def read_jsonl(file: Path, column: str) -> list[str]:
    """Return one text per line, each line a JSON object; blank lines are skipped.

    Raises:
        SourceError: a line that is not a JSON object or not UTF-8, a text that is not a string or
            not valid Unicode, or a compressed file that is cut or damaged. Names the line.
        ConfigError: a line without the column.
    """
    texts, number = [], 0
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    texts.append(_text_of(line, file, number, column))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{file} is cut short or damaged after line {number}: {error}. Download it again, or "
            "unpack what there is of it (gzip -dc) and set path to that"
        ) from error
    return texts


def read_parquet(file: Path, column: str) -> list[str]:
    """Return one document per row; only the named column is read."""
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        names = parquet.schema_arrow.names
        if column not in names:
            raise _missing_column(file, column, names)
        return parquet.read(columns=[column]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(
            f"{file} is not a readable parquet file: {error}. Download it again"
        ) from error


def _decoded(file: Path) -> str:
    return _utf8(file.read_bytes(), str(file)).replace("\r\n", "\n").replace("\r", "\n")


def _utf8(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} is not UTF-8 text: byte {content[error.start]:#04x} at {error.start}; "
            "convert it first (iconv -f ENCODING -t UTF-8)"
        ) from error


def _text_of(line: bytes, file: Path, number: int, column: str) -> str:
    """Return the text of one line of a JSONL file."""
    where = f"{file}, line {number}"
    try:
        record = json.loads(_utf8(line, where))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is not JSON: {error}; remove the line or repair it") from error
    if not isinstance(record, dict):
        raise SourceError(f"{where} is not a JSON object, like {{{column!r}: '...'}}")
    if column not in record:
        raise _missing_column(file, column, list(record), f", line {number}")
    text = record[column]
    if not isinstance(text, str):
        raise SourceError(
            f"{where}: {column} is {type(text).__name__}, not text; name another column "
            f"(column=NAME; it has: {', '.join(record)}) or remove the line"
        )
    # JSON can express half of a surrogate pair ("\\ud83d"), which no tokenizer can encode.
    if found := _SURROGATE.search(text):
        raise SourceError(
            f"{where}: the text has the lone surrogate {found.group()!a} at character "
            f"{found.start()}, which is half of a character; remove it, or replace it by U+FFFD"
        )
    return text


READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".raw": read_raw,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".jsonl.gz": read_jsonl,
    ".json.gz": read_jsonl,
}


def find_reader(file: Path) -> Reader | None:
    """Return the reader for a file's name; None if there is none."""
    endings = (ending for ending in READERS if file.name.endswith(ending))
    return next((READERS[ending] for ending in endings), None)


def _missing_column(file: Path, column: str, names: list[str], place: str = "") -> ConfigError:
    return ConfigError(
        f"column={column} is not in {file}{place}; it has: {', '.join(names) or 'none'}"
    )
