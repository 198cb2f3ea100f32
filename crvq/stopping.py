"""Ctrl-C and SIGTERM end a command in seconds; imports nothing that takes long to load."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 4.0
"""After a signal a command has so long to end by itself."""


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop by a signal.

    A `KeyboardInterrupt`, so that nothing on the way takes it for a failure.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ended by the signal."""
        return 128 + self.number


@contextmanager
def stopped_by_signals(on_timeout: Callable[[], None]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `StoppedError`, and end the process if that takes too long.

    Worker threads that are in the middle of a large linear layer cannot be interrupted, and the
    main thread waits for them. After `GRACE_SECONDS` a timer therefore calls ``on_timeout``, which
    closes the record, and ends the process. Outside the main thread signals stay as they are.

    Args:
        on_timeout: closes what must be closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        error = StoppedError(number)
        timer = threading.Timer(GRACE_SECONDS, _end, (on_timeout, error.exit_code))
        timer.daemon = True
        timer.start()
        raise error

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _end(on_timeout: Callable[[], None], exit_code: int) -> None:
    try:
        on_timeout()
    finally:
        os._exit(exit_code)
