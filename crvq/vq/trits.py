"""Trits packed five to a byte: 1.6 bits each, where log2(3) = 1.585 is the limit."""

from __future__ import annotations

import torch
from torch import Tensor

TRITS_PER_BYTE = 5
BYTE_VALUES = 3**TRITS_PER_BYTE
"""A byte of five trits is below 243."""


def trit_bytes(count: int) -> int:
    """Return the bytes that ``count`` trits take."""
    return -(-count // TRITS_PER_BYTE)


def pack_trits(trits: Tensor) -> Tensor:
    """Pack values of -1, 0, +1, five to a byte, the first one as the least significant digit.

    Args:
        trits: int8, any shape; missing trits of the last byte are stored as the digit 0.

    Returns:
        int64 ``(ceil(count / 5),)``, each from 0 to 242.

    Raises:
        ValueError: a value is not a trit.
    """
    flat = trits.flatten().to(torch.int64) + 1
    if len(flat) and (int(flat.min()) < 0 or int(flat.max()) > 2):
        raise ValueError(f"trits from {int(flat.min()) - 1} to {int(flat.max()) - 1}: -1 to 1 fit")
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % TRITS_PER_BYTE))
    return (padded.view(-1, TRITS_PER_BYTE) * _powers(flat.device)).sum(1)


def unpack_trits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the int8 values of ``shape`` that `pack_trits` packed."""
    digits = packed.to(torch.int64)[:, None] // _powers(packed.device) % 3
    count = int(torch.Size(shape).numel())
    return (digits.flatten()[:count] - 1).to(torch.int8).view(shape)


def _powers(device: torch.device) -> Tensor:
    return 3 ** torch.arange(TRITS_PER_BYTE, device=device)
