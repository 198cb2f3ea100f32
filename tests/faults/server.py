"""A warm process that forks a child for each command: ``python -m tests.faults.server ...``.

Importing torch and transformers takes seconds, a tiny run a tenth of that. The server imports all
of it and makes one run; each child is a process of its own, with its own output, which can be
killed like any other and leaves through the interpreter's exit functions otherwise.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.inject import Injection, install
from tests.forked import exit_code, leave, take_over

_POLL = 0.002


@dataclass(frozen=True)
class Ended:
    """What became of a command."""

    code: int | None
    """Exit status, minus the signal's number if it was killed; None: it had to be ended."""
    seconds: float
    said: str
    """Standard output and error."""


class Server:
    """A forking server, and the commands that it runs."""

    def __init__(self, warm_up: list[str], scratch: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "1000",
            "WANDB_MODE": "offline",
        }
        scratch.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", *warm_up],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(scratch / "server.log").open("w"),
            text=True,
            start_new_session=True,
        )
        if self._read() != {"ready": True}:
            raise RuntimeError((scratch / "server.log").read_text()[-3000:])

    def start(
        self, arguments: list[str], folder: Path, output: Path, fault: Injection | None = None
    ) -> int:
        """Start ``run.py`` with some arguments in a folder; return the process's id."""
        self._write(
            {
                "arguments": arguments,
                "folder": str(folder),
                "output": str(output),
                "fault": None if fault is None else fault.values(),
            }
        )
        return int(self._read()["pid"])

    def wait(self, pid: int, timeout: float) -> int | None:
        """Return how a process ended; None if it had not within the time, and was killed."""
        self._write({"wait": pid, "timeout": timeout})
        return self._read()["code"]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)

    def _write(self, values: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}


def _serve(warm_up: list[str]) -> int:
    """Fork children until standard input ends."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    _warm(warm_up)
    _send(reply, {"ready": True})
    # Unbuffered: a child must not inherit requests that are still to be read.
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            _send(reply, {"code": _wait(request["wait"], request["timeout"])})
            continue
        pid = os.fork()
        if pid == 0:
            leave(_child(request))
        _send(reply, {"pid": pid})
    return 0


def _send(reply: Any, values: dict[str, Any]) -> None:
    reply.write(json.dumps(values) + "\n")
    reply.flush()


def _wait(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _child(request: dict[str, Any]) -> int:
    from crvq.cli.main import main

    take_over(request["folder"], request["output"])
    sys.argv = ["run.py", *request["arguments"]]
    if request["fault"] is not None:
        install(request["folder"], request["fault"])
    return exit_code(main)


def _warm(arguments: list[str]) -> None:
    """Import all that a run needs, and make one, so that compiled kernels are loaded."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    import crvq.cli.job
    import crvq.cli.main  # noqa: F401
    from crvq.cli.typed_config import typed_config
    from crvq.pipeline.run import execute

    torch.set_num_threads(1)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = typed_config(compose("config", overrides=arguments))
    GlobalHydra.instance().clear()
    execute(config)
    gc.freeze()  # children need not look through what they share


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1:]))
