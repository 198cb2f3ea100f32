"""A warm process that forks a child for each command: ``python -m tests.faults.server ...``.

The server imports all that a run needs and makes one; `tests.forked` says what its children are.
Children are forked by it, and not by the program that tries faults, because that has threads.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.inject import Injection, install
from tests.forked import leave, own_process, run_py, wait


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

    def __init__(self, warm_up: list[str], scratch: Path, *, forked: bool = False) -> None:
        """Start a server and wait until it is warm.

        Args:
            warm_up: arguments of its own run.
            scratch: a folder for its log.
            forked: from this process, which has imported what a run needs, and has no threads
                that use it.
        """
        environment = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "1000",
            "WANDB_MODE": "offline",
        }
        scratch.mkdir(parents=True, exist_ok=True)
        log = (scratch / "server.log").open("w")
        if forked:
            (asked, asks), (answered, answers) = os.pipe(), os.pipe()
            self._pid = os.fork()
            if self._pid == 0:
                os.close(asks)  # its end is what the server waits for
                os.environ.update(environment)
                own_process(asked, answers, log.fileno())
                leave(_serve(warm_up))
            os.close(asked)
            os.close(answers)
            self._to, self._from = os.fdopen(asks, "w"), os.fdopen(answered)
        else:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.server", *warm_up],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            self._pid, self._to, self._from = process.pid, process.stdin, process.stdout
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
        self._to.close()
        wait(self._pid, timeout=20)

    def _write(self, values: dict[str, Any]) -> None:
        self._to.write(json.dumps(values) + "\n")
        self._to.flush()

    def _read(self) -> dict[str, Any]:
        line = self._from.readline()
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
            _send(reply, {"code": wait(request["wait"], request["timeout"])})
            continue
        _send(reply, {"pid": _start(request)})
    return 0


def _send(reply: Any, values: dict[str, Any]) -> None:
    reply.write(json.dumps(values) + "\n")
    reply.flush()


def _start(request: dict[str, Any]) -> int:
    """Start a requested command; return the process's id."""
    folder, fault = Path(request["folder"]), request["fault"]

    def before() -> None:
        if fault is not None:
            install(request["folder"], fault)

    return run_py(request["arguments"], folder, before, Path(request["output"])).pid


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
