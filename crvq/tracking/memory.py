"""Peak memory of one run, also where several runs share a process (a serial multirun)."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_INTERVAL_SECONDS = 0.05
_RESET_PEAK = "5"  # what /proc/<pid>/clear_refs wants for "set VmHWM back to VmRSS"


class PeakMemory:
    """Measures the highest resident memory between entering and leaving, in bytes.

    The kernel's own peak counter is exact but never falls: it is set back on entry where the
    system allows it (Linux). Elsewhere a light thread samples the resident size every 50 ms, and
    a shorter peak can be missed. On CUDA, the allocator's peak is reset and read as well.

    ``host_bytes`` can be read before leaving too; ``gpu_bytes`` is None without CUDA.
    """

    def __init__(self, *, sample: bool = False) -> None:
        """``sample=True`` uses the thread even where the kernel's counter would do."""
        self._sample = sample
        self._peak = 0
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._gpu_bytes: int | None = None

    @property
    def host_bytes(self) -> int:
        """Highest resident size so far."""
        if not self._left.is_set():
            self._update()
        return self._peak

    @property
    def gpu_bytes(self) -> int | None:
        """Highest number of bytes that torch had allocated on any one GPU."""
        return self._gpu_bytes if self._left.is_set() else _gpu_peak()

    def __enter__(self) -> Self:
        self._sample = self._sample or not _reset_kernel_peak()
        if self._sample:
            self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)
            self._thread.start()
        _reset_gpu_peak()
        self._update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._update()
        self._gpu_bytes = _gpu_peak()
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._left.wait(_INTERVAL_SECONDS):
            self._update()

    def _update(self) -> None:
        peak = None if self._sample else _kernel_peak()
        self._peak = max(self._peak, peak or psutil.Process().memory_info().rss)


def _reset_kernel_peak() -> bool:
    """Set the kernel's peak back to the present size; False if that did not work."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    peak = _kernel_peak()
    # Some sandboxes take the write and do nothing.
    return peak is not None and peak <= psutil.Process().memory_info().rss * 1.02 + 2**20


def _kernel_peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _reset_gpu_peak() -> None:
    import torch

    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def _gpu_peak() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return max((torch.cuda.max_memory_allocated(device) for device in devices), default=None)
