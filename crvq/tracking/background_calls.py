"""Calls to something that may be slow, hang or raise, made in another thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class BackgroundCalls:
    """Makes calls one after another in their own thread.

    The first call that raises ends it: one warning is logged and later calls are dropped. So
    does :meth:`close` when the calls are not through in time; the thread, which cannot be
    stopped, is then left behind (it does not keep the process alive).
    """

    def __init__(self, what: str) -> None:
        """``what`` is named in warnings."""
        self._what = what
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._started = time.monotonic()
        self._first_done = threading.Event()
        self._last: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    @property
    def given_up(self) -> bool:
        """Whether calls are dropped, because one raised or was too slow."""
        return self._given_up.is_set()

    @property
    def busy(self) -> bool:
        """Whether the thread still works (or hangs) on a call."""
        return self._thread.is_alive()

    def submit(self, call: Callable[[], None]) -> None:
        """Make ``call`` after all earlier ones; returns at once."""
        if not self._given_up.is_set():
            self._calls.put(call)

    def close(self, timeout_seconds: float, last: Callable[[], None]) -> bool:
        """Wait until all calls are made, at most so long; False if they are not.

        ``last`` frees what the calls hold: it is made even if an earlier call raised. The time
        runs from now; if not even the first call (which connects) has come back, it runs from
        the start, so that what hung all along costs no further wait.
        """
        self._last = last
        self._calls.put(None)
        waited = 0.0 if self._first_done.is_set() else time.monotonic() - self._started
        self._thread.join(max(0.0, timeout_seconds - waited))
        if self._thread.is_alive():
            self._give_up(f"no answer within {timeout_seconds:g} s")
            return False
        return True

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._given_up.is_set():
                self._try(call)
            self._first_done.set()
        self._try(self._last)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:  # whatever it is, the run must not notice
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        if not self._given_up.is_set():
            self._given_up.set()
            _log.warning("%s is left out of the rest of this run: %s", self._what, reason)
