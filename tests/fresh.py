"""Programs in processes that have imported torch and nothing else of weight.

What a program sees depends on the order of its imports, or on the environment when it imports the
clients of the hub: it needs a process of its own. Importing torch is half of what that costs, and
alike for all. A fresh interpreter imports it once and forks a child for each program.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked import forked

ROOT = Path(__file__).parents[1]
SHARED = ("torch", "torch._dynamo", "torch.distributed.tensor", "pandas", "numba")
"""What children need not import again; nothing that reads settings of the hub."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    returncode: int | None
    stdout: str
    stderr: str


class FreshProcesses:
    """The interpreter that forks.

    Args:
        scratch: an empty folder for what programs print.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fresh"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, program: str, *arguments: object, environment: dict[str, str] | None = None
    ) -> Ended:
        """Run a program's text as ``python -c`` does.

        Args:
            program: its text.
            arguments: of the command line, after the program's name.
            environment: all variables; by default those of this process.
        """
        self._count += 1
        output = self._scratch / f"{self._count}.out"
        request = {
            "program": program,
            "arguments": [str(one) for one in arguments],
            "environment": dict(os.environ if environment is None else environment),
            "output": str(output),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        return Ended(code, output.read_text(), output.with_suffix(".err").read_text())

    def close(self) -> None:
        """End the interpreter."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


def _run(request: dict[str, Any]) -> int | None:
    def work() -> None:
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["-c", *request["arguments"]]
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})

    output = Path(request["output"])
    return forked(work, output, output.with_suffix(".err")).wait()


def main() -> None:
    """Run requested programs until standard input ends."""
    for name in SHARED:
        importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w")
    while line := sys.stdin.readline():
        replies.write(json.dumps(_run(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
