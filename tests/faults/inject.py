"""What goes wrong inside a child of the forking server: nothing of it is known to `crvq`.

File operations below the case's folder are counted by an audit hook: creating or opening a file for
writing, making a folder, renaming, removing, and (wrapped, since it is not audited) fsync. Each of
them is a boundary at which a child can die or a disk can be full.
"""

from __future__ import annotations

import datetime as clock
import functools
import importlib
import os
import signal
import sys
import threading
import time
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0}
_DAY = 86400.0


@dataclass(frozen=True)
class Injection:
    """One fault; everything is off by default."""

    count_to: str | None = None
    """File that gets a line for each file operation."""
    at_write: int | None = None
    """Number of the file operation before which ``signals`` are sent, or from which on writing
    fails with ``errno``."""
    at_call: str | None = None
    """``module:Class.function`` at whose start ``signals`` are sent."""
    nth_call: int = 1
    signals: tuple[int, ...] = ()
    """The first is sent at once, the second 0.2 s later."""
    errno: int | None = None
    clock: str | None = None
    """``forward``, ``back`` (a day, after a number of readings) or ``shaking`` (to and fro)."""
    wandb: str | None = None
    """A call of W&B and what it does, as in ``init hangs`` or ``log raises``."""

    def values(self) -> dict[str, Any]:
        """Return what `install` takes."""
        return asdict(self)


def install(root: str, values: dict[str, Any]) -> None:
    """Arrange for a fault in this process.

    Args:
        root: only file operations below this folder count.
        values: from `Injection.values`.
    """
    wanted = Injection(**values)
    if wanted.count_to is not None or wanted.at_write is not None:
        _watch_writes(root, wanted)
    if wanted.at_call is not None:
        _watch_calls(wanted)
    if wanted.clock is not None:
        _bend_clock(wanted.clock)
    if wanted.wandb is not None:
        _fake_wandb(*wanted.wandb.split())


def _send(signals: tuple[int, ...]) -> None:
    if len(signals) > 1:
        pid, later = os.getpid(), signals[1]
        timer = threading.Timer(0.2, os.kill, (pid, later))
        timer.daemon = True
        timer.start()
    os.kill(os.getpid(), signals[0])


def _watch_writes(root: str, wanted: Injection) -> None:
    done, lock = [0], threading.Lock()
    log = None
    if wanted.count_to is not None:
        log = os.open(wanted.count_to, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def operation(event: str, path: object) -> None:
        name = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        if not name.startswith(root + os.sep):
            return
        with lock:
            done[0] += 1
            number = done[0]
        if log is not None:
            os.write(log, f"{event}\t{os.path.relpath(name, root)}\n".encode())
        if wanted.at_write is None:
            return
        if wanted.errno is not None and number >= wanted.at_write and event != "os.remove":
            raise OSError(wanted.errno, os.strerror(wanted.errno), name)
        if number == wanted.at_write and wanted.signals:
            _send(wanted.signals)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)) and flags is not None and flags & _WRITES:
                operation("open", path)
        elif event in _EVENTS and isinstance(args[_EVENTS[event]], (str, bytes, os.PathLike)):
            operation(event, args[_EVENTS[event]])

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        operation("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def _watch_calls(wanted: Injection) -> None:
    assert wanted.at_call is not None
    module_name, _, path = wanted.at_call.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = [0]

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == wanted.nth_call:
            _send(wanted.signals)
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


def _bend_clock(how: str) -> None:
    """Let `time.time` and the `datetime.now` of every module of crvq jump."""
    real_time, real_now = time.time, clock.datetime.now
    readings = [0]

    def shift() -> float:
        readings[0] += 1
        if how == "shaking":
            return _DAY if readings[0] % 2 else -_DAY
        jumped = readings[0] > 20
        return 0.0 if not jumped else _DAY if how == "forward" else -_DAY

    class AnyDatetime(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, clock.datetime)

    class Datetime(clock.datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: clock.tzinfo | None = None) -> clock.datetime:
            return real_now(tz) + clock.timedelta(seconds=shift())

    time.time = lambda: real_time() + shift()
    for name, module in list(sys.modules.items()):
        if name.startswith("crvq") and getattr(module, "datetime", None) is clock.datetime:
            # The schema's annotations stay as they are: only functions look the name up later.
            module.datetime = Datetime  # type: ignore[attr-defined]


def _fake_wandb(call: str, does: str) -> None:
    """Put a module in W&B's place, one of whose functions hangs, raises or is slow."""

    def act(name: str) -> None:
        if name != call:
            return
        if does == "raises":
            raise ConnectionError("the tracking server is down")
        if does == "exits":
            raise SystemExit("no tracking")
        time.sleep(3600.0 if does == "hangs" else 0.3)

    class Run:
        summary: dict[str, Any] = {}  # noqa: RUF012

        def log(self, *args: Any, **kwargs: Any) -> None:
            act("log")

        def finish(self, *args: Any, **kwargs: Any) -> None:
            act("finish")

    def init(*args: Any, **kwargs: Any) -> Run:
        act("init")
        return Run()

    from importlib.machinery import ModuleSpec

    names = ("wandb", "wandb.sdk", "wandb.sdk.wandb_run")
    made = {name: types.ModuleType(name) for name in names}
    for name, module in made.items():
        module.__spec__ = ModuleSpec(name, None, origin=str(Path(__file__)))
        module.__path__ = []
    values = {"init": init, "Settings": dict, "setup": lambda **_: None, "Table": dict}
    vars(made["wandb"]).update(values)
    made["wandb.sdk.wandb_run"].Run = Run  # type: ignore[attr-defined]
    sys.modules.pop("crvq.tracking.wandb_run", None)
    sys.modules.update(made)


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
