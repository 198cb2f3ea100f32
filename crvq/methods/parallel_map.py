"""Map a function over independent items in threads, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    work: Callable[[Item], Result], items: Sequence[Item], sizes: Sequence[float], device: str
) -> Iterator[Result]:
    """Yield ``work`` of each item, in the items' order.

    Code search is made of many small products, which torch's own threads hardly speed up. So the
    CPU threads that torch may use are shared out over items instead, the largest items first.
    torch releases Python's lock while it computes. A result depends on the number of threads an
    item gets (sums round differently), which is fixed by torch's number of threads and the number
    of items, and on nothing else.

    Args:
        work: must not share state that it changes.
        items: to work on.
        sizes: how long each item takes, in any unit.
        device: type of the device; on anything but a CPU items come one after another.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items))
    if device != "cpu" or workers < 2:
        yield from map(work, items)
        return
    share = threads // workers
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            largest_first = sorted(range(len(items)), key=lambda index: -sizes[index])
            futures = {index: pool.submit(work, items[index]) for index in largest_first}
            try:
                for index in range(len(items)):
                    yield futures[index].result()
            finally:
                for future in futures.values():
                    future.cancel()
    finally:
        torch.set_num_threads(threads)
