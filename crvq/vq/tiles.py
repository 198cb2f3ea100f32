"""How large products are cut so that temporary memory stays small whatever the shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Elements of the largest temporary matrix: 4 MiB of float32 on a CPU, where larger tiles only
# miss the cache; a GPU wants enough rows to fill it.
_CPU_ELEMENTS = 1 << 20
_GPU_ELEMENTS = 1 << 23


def tile_elements(device: torch.device) -> int:
    """Elements that one temporary matrix may have on ``device``."""
    return _CPU_ELEMENTS if device.type == "cpu" else _GPU_ELEMENTS


def tiles(count: int, width: int, device: torch.device) -> Iterator[slice]:
    """Cut ``count`` rows of ``width`` elements into slices of at most a tile each."""
    step = max(1, tile_elements(device) // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
