"""Which kernels code search runs in here: Triton on a GPU, compiled ones on a CPU, or torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import torch
from torch import Tensor


def fused_groups_for(device: torch.device, codebooks: list[Tensor]) -> ModuleType | None:
    """`crvq.vq.fused_groups` if Triton is installed and it takes these codebooks, else None.

    ``CRVQ_FUSED=0`` turns the kernels off, to compare or to get out of their way.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return None
    module = _fused_groups()
    return module if module is not None and module.serves(device, codebooks) else None


@cache
def _fused_groups() -> ModuleType | None:
    if os.environ.get("CRVQ_FUSED") == "0" or importlib.util.find_spec("triton") is None:
        return None
    from crvq.vq import fused_groups

    return fused_groups


# Below this many rows a part costs more to hand over than to compute.
_LEAST_ROWS = 16


def compiled_search_for(device: torch.device) -> ModuleType | None:
    """Return `crvq.vq.compiled_search` if ``device`` is a CPU and numba works, else None.

    ``CRVQ_COMPILED=0`` turns the kernels off, to compare them with the torch search.
    """
    return _compiled_search() if device.type == "cpu" else None


@cache
def _compiled_search() -> ModuleType | None:
    if os.environ.get("CRVQ_COMPILED") == "0":
        return None
    try:
        # Here and not at the top: importing numba takes as long as importing numpy and pandas.
        return importlib.import_module("crvq.vq.compiled_search")
    except ImportError:
        # Not installed, or too old for this numpy: the torch search does the same, slower.
        return None


def compiled_greedy_for(device: torch.device) -> ModuleType | None:
    """Return `crvq.vq.compiled_greedy` where `compiled_search_for` returns a module, else None."""
    if compiled_search_for(device) is None:
        return None
    return importlib.import_module("crvq.vq.compiled_greedy")


def compiled_trellis_for(device: torch.device) -> ModuleType | None:
    """Return `crvq.vq.compiled_trellis` where `compiled_search_for` returns a module, else None."""
    if compiled_search_for(device) is None:
        return None
    return importlib.import_module("crvq.vq.compiled_trellis")


def over_rows(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(first, last)`` on parts of ``rows``, one part for each of torch's threads.

    ``work`` must release Python's lock and treat each row by itself, so that the result depends
    neither on the number of threads nor on where the parts begin. Threads are started for each
    call (a call takes milliseconds, a start microseconds): a pool that outlives the call would
    hang in a forked process.
    """
    parts = max(1, min(torch.get_num_threads(), rows // _LEAST_ROWS))
    if parts == 1:
        work(0, rows)
        return
    edges = [rows * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
