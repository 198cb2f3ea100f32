"""Commands in processes of their own that start at once: forks of one that has imported it all.

A new interpreter needs seconds to import torch, transformers and the rest, a tiny run a tenth of
that. Tests of signals, locks and kills need a process of its own, not a new interpreter; tests of
imports and of the program's start do, and use `subprocess`.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[1]
_POLL = 0.005


@dataclass(frozen=True)
class Forked:
    """A command that was started."""

    pid: int
    output: Path
    """Standard output and error."""

    def ended(self, timeout: float) -> tuple[int, str]:
        """Return the exit status (minus the signal's number if it was killed) and the output."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status), self.output.read_text()
            time.sleep(_POLL)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"not ended within {timeout} s:\n{self.output.read_text()}")


def fork_run_py(
    arguments: list[str], folder: Path, output: Path, before: Callable[[], None] | None = None
) -> Forked:
    """Start ``run.py`` in a fork of this process.

    Args:
        arguments: of the command line.
        folder: its working folder.
        output: the file that its standard output and error are appended to.
        before: called in the new process first.
    """
    pid = os.fork()
    if pid == 0:
        try:
            atexit._clear()  # what this process does at its end is not the command's to do
            take_over(folder, output)
            GlobalHydra.instance().clear()
            sys.argv = [str(ROOT / "run.py"), *arguments]
            if before is not None:
                before()
            code = exit_code(lambda: runpy.run_path(sys.argv[0], run_name="__main__"))
            leave(code)
        finally:
            os._exit(70)  # never back into the tests
    return Forked(pid, output)


def take_over(folder: Path | str, output: Path | str) -> None:
    """Give a forked process a working folder, an output and the signals of a new program."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, target)
    # A test's own streams may be those of pytest.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(folder)


def exit_code(program: Callable[[], object]) -> int:
    """Run a program; return the exit code that an interpreter would end with."""
    try:
        program()
    except SystemExit as done:
        if done.code is None or isinstance(done.code, int):
            return done.code or 0
        sys.stderr.write(f"{done.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End as the interpreter would, but without taking its modules apart, which takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
