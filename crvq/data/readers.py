"""Readers of local text files, by file name ending.

What a document is differs, because documents are later joined by blank lines:

- ``.txt``: the file is one document, verbatim; joining adds nothing to it.
- ``.raw``: WikiText's own form; every line is a row, just as `datasets` gives ``wikitext-2-raw-v1``
  (a blank line is an empty row, any other keeps its newline), so that the joined text, and the
  perplexity on it, are those of papers (of its test text, GPT-2's tokenizer makes the 287,644
  tokens that transformers' documentation tells of).
- ``.jsonl`` (``.jsonl.gz``, ``.json.gz``: C4's shards) and ``.parquet``: every record is a
  document, its text in a named column.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from crvq.errors import ConfigError, SourceError

Reader = Callable[[Path, str], list[str]]
"""From a file and the column that holds the text to documents."""


def read_txt(file: Path, column: str) -> list[str]:
    """The whole file as one document."""
    return [file.read_text(encoding="utf-8")]


def read_raw(file: Path, column: str) -> list[str]:
    """The file's lines as WikiText's rows."""
    lines = file.read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line + "\n" if line.strip() else "" for line in lines]


def read_jsonl(file: Path, column: str) -> list[str]:
    """One JSON object a line; blank lines are skipped."""
    texts = []
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise SourceError(f"{file}, line {number} is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise SourceError(f"{file}, line {number} is not a JSON object")
            if column not in record:
                raise _missing_column(file, column, list(record), f", line {number}")
            texts.append(record[column])
    return texts


def read_parquet(file: Path, column: str) -> list[str]:
    """One document a row; only the named column is read."""
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        names = parquet.schema_arrow.names
        if column not in names:
            raise _missing_column(file, column, names)
        return parquet.read(columns=[column]).column(0).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{file} is not a readable parquet file: {error}") from error


READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".raw": read_raw,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".jsonl.gz": read_jsonl,
    ".json.gz": read_jsonl,
}


def find_reader(file: Path) -> Reader | None:
    """The reader for a file's name; None if there is none."""
    endings = (ending for ending in READERS if file.name.endswith(ending))
    return next((READERS[ending] for ending in endings), None)


def _missing_column(file: Path, column: str, names: list[str], place: str = "") -> ConfigError:
    return ConfigError(
        f"column={column} is not in {file}{place}; it has: {', '.join(names) or 'none'}"
    )
