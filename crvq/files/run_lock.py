"""One process per run: a lock file, and next to it who holds the lock and a heartbeat."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from crvq.errors import CrvqError
from crvq.files.atomic import write_json

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A holder on another host whose heartbeat stands still for so long counts as dead."""
_POLL_SECONDS = 0.5


class LockedError(CrvqError):
    """Another process works on the same run."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as it last described itself."""

    host: str
    pid: int
    started: str
    beat: int = 0
    """Number of heartbeats so far. It is compared with itself, so clocks need not agree."""

    @property
    def is_this_host(self) -> bool:
        """Whether the holder runs on this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.started})"


class RunLock:
    """Hold a lock on one run while entered.

    The lock itself is ``filelock``'s, which the kernel releases when its process dies, however it
    dies. File systems that do not lock across hosts are covered by the heartbeat: a lock whose
    holder is another host counts as held until its heartbeat has stood still for a minute.

    Args:
        path: of the lock file; the holder's description lies next to it as ``<path>.json``.
        wait: wait until the lock is free, or raise at once.
        on_wait: called with one line when the lock turns out to be held.

    Raises:
        LockedError: on entering, if the lock is held and ``wait`` is false.
    """

    def __init__(
        self, path: Path, *, wait: bool = True, on_wait: Callable[[str], None] = lambda line: None
    ) -> None:
        self._path, self._wait, self._on_wait = path, wait, on_wait
        self._lock = FileLock(str(path), timeout=0)
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def waited(self) -> bool:
        """Whether another process held the lock when this one asked for it."""
        return self._waited

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._waited = False
        while not self._acquire():
            holder = self.holder()
            line = f"{self._path.stem} is being worked on by {holder or 'another process'}"
            if not self._wait:
                raise LockedError(f"{line}; wait for it, or stop it and run the same command again")
            if not self._waited:
                self._on_wait(f"{line}: waiting for it to finish")
            self._waited = True
            time.sleep(_POLL_SECONDS)
        me = Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat("T", "seconds"))
        self._describe(me)
        self._heart = threading.Thread(target=self._beat, args=(me,), daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        self._holder_file.unlink(missing_ok=True)
        self._lock.release()

    def holder(self) -> Holder | None:
        """Return who holds the lock, or held it when it was last taken; None if unknown."""
        try:
            return Holder(**json.loads(self._holder_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def _holder_file(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    def _acquire(self) -> bool:
        try:
            self._lock.acquire()
        except Timeout:
            return False
        holder = self.holder()
        if holder is None or holder.is_this_host or not self._is_beating(holder):
            return True
        self._lock.release()
        return False

    def _is_beating(self, holder: Holder) -> bool:
        """Watch another host's heartbeat until it moves, or has stood still for long enough."""
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            now = self.holder()
            if now is None:
                return False
            if now != holder:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _beat(self, me: Holder) -> None:
        beat = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beat += 1
            self._describe(Holder(me.host, me.pid, me.started, beat))

    def _describe(self, me: Holder) -> None:
        try:
            write_json(self._holder_file, asdict(me))
        except OSError as error:  # a full disk must not end the run that still computes
            _log.debug("the lock's heartbeat could not be written: %s", error)
