"""``run.py`` in forked children: processes of their own that need not import anything again.

Importing torch and transformers takes seconds, a tiny run a tenth of that. A child has its own
output and environment, can be killed like any other process, and leaves through the interpreter's
exit functions.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_POLL = 0.002


@dataclass(frozen=True)
class Forked:
    """A command that was started."""

    pid: int
    output: Path

    def said(self) -> str:
        """Standard output and error so far."""
        return self.output.read_text(errors="replace")

    def wait(self, timeout: float = 240.0) -> int | None:
        """Return the exit status, as `wait` does."""
        return wait(self.pid, timeout)


def run_py(
    arguments: list[str],
    folder: Path,
    before: Callable[[], object] | None = None,
    output: Path | None = None,
) -> Forked:
    """Start ``run.py`` with some arguments in a folder.

    Args:
        arguments: of the command line.
        folder: the working folder.
        before: called first in the child, as to replace a function there.
        output: where standard output and error are appended; by default a new file.
    """

    def command() -> None:
        from hydra.core.global_hydra import GlobalHydra

        from crvq.cli.main import main

        GlobalHydra.instance().clear()
        os.chdir(folder)
        sys.argv = ["run.py", *arguments]
        if before is not None:
            before()
        main()

    number = len(list(folder.glob("output-*.txt")))
    return forked(command, output or folder / f"output-{number}.txt")


def forked(work: Callable[[], object], output: Path, errors: Path | None = None) -> Forked:
    """Start a child that does some work.

    Args:
        work: done in the child.
        output: the file that its standard output is appended to.
        errors: that of standard error; by default the same.
    """
    files = output, errors or output
    for file in files:
        file.touch()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            opened = [os.open(file, os.O_WRONLY | os.O_APPEND) for file in files]
            own_process(os.open(os.devnull, os.O_RDONLY), *opened)
            code = _code_of(work)
        finally:
            leave(code)
    return Forked(pid, output)


def wait(pid: int, timeout: float) -> int | None:
    """Return how a child ended: its exit status, or minus the signal that killed it.

    After the timeout in seconds it is killed, and None is returned.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def own_process(stdin: int, stdout: int, stderr: int) -> None:
    """Give a forked child its own session, signals, things to clean up and standard files.

    Args:
        stdin: descriptors of the files that become the standard ones.
        stdout: see ``stdin``.
        stderr: see ``stdin``.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The parent's temporary folders are the parent's to remove; W&B's falls to an exit function.
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit._clear()
    for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
    # pytest has put files of its own in their place.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # type: ignore[misc] # noqa: SIM115


def _code_of(work: Callable[[], object]) -> int:
    try:
        work()
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
