"""Pack integers of any width into bytes, and trits five to a byte (1.6 bits each)."""

from __future__ import annotations

import torch
from torch import Tensor

# Values packed in one go; a multiple of 8, so that every chunk ends on a whole byte.
_CHUNK = 1 << 20


def packed_bytes(count: int, width: int) -> int:
    """Bytes that ``count`` integers of ``width`` bits take."""
    return (count * width + 7) // 8


def pack_bits(values: Tensor, width: int) -> Tensor:
    """Pack non-negative integers of ``width`` bits each, least significant bit first.

    Args:
        values: any shape, each below ``2**width``.
        width: 1 to 31; 0 packs to nothing (all values are then zero).

    Returns:
        uint8 of shape ``(ceil(count * width / 8),)``.

    Raises:
        ValueError: a value does not fit, or the width cannot be packed.
    """
    if not 0 <= width <= 31:
        raise ValueError(f"cannot pack {width}-bit integers: 0 to 31 bits fit")
    flat = values.flatten().to(torch.int64)
    if len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= 1 << width):
        raise ValueError(
            f"values from {int(flat.min())} to {int(flat.max())} do not fit {width} bits"
        )
    if width == 8:
        return flat.to(torch.uint8)
    shifts = torch.arange(width, device=flat.device)
    weights = 1 << torch.arange(8, device=flat.device)
    packed = []
    for chunk in flat.split(_CHUNK):
        bits = ((chunk[:, None] >> shifts) & 1).flatten()
        bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8))
        packed.append((bits.view(-1, 8) * weights).sum(1).to(torch.uint8))
    return torch.cat(packed) if packed else torch.empty(0, dtype=torch.uint8)


def unpack_bits(packed: Tensor, width: int, shape: tuple[int, ...]) -> Tensor:
    """Return the int64 values of ``shape`` that `pack_bits` packed.

    Raises:
        ValueError: the number of bytes is not that of so many values.
    """
    count = 1
    for size in shape:
        count *= size
    if len(packed) != packed_bytes(count, width):
        raise ValueError(
            f"{len(packed)} bytes cannot hold {count} values of {width} bits "
            f"(they take {packed_bytes(count, width)})"
        )
    if width == 8:
        return packed.to(torch.int64).view(shape)
    if width == 0:
        return torch.zeros(shape, dtype=torch.int64, device=packed.device)
    weights = 1 << torch.arange(width, device=packed.device)
    places = torch.arange(8, device=packed.device)
    values = []
    step = _CHUNK * width // 8
    for start in range(0, len(packed), step):
        chunk = packed[start : start + step].to(torch.int64)
        bits = ((chunk[:, None] >> places) & 1).flatten()
        bits = bits[: len(bits) // width * width]
        values.append((bits.view(-1, width) * weights).sum(1))
    flat = torch.cat(values) if values else torch.empty(0, dtype=torch.int64)
    return flat[:count].view(shape)


def unpack_rows(packed: Tensor, width: int, columns: int, rows: slice) -> Tensor:
    """Return some rows of packed integers ``(all rows, columns)``, reading only their bytes.

    Row r starts at bit ``r * columns * width``; where that is not a whole byte, a kernel shifts by
    ``r * columns * width % 8`` bits, as is done here.

    Args:
        packed: by `pack_bits`, of a tensor ``(all rows, columns)``.
        width: of an integer, 0 to 31 bits.
        columns: integers in a row.
        rows: a slice with start and stop.

    Returns:
        ``(rows, columns)``, int64.
    """
    first, last = rows.start * columns * width, rows.stop * columns * width
    count = (rows.stop - rows.start) * columns
    if width == 0 or count == 0:
        return torch.zeros(rows.stop - rows.start, columns, dtype=torch.int64, device=packed.device)
    part = packed[first // 8 : (last + 7) // 8].to(torch.int64)
    places = torch.arange(8, device=packed.device)
    bits = ((part[:, None] >> places) & 1).flatten()[first % 8 :][: count * width]
    weights = 1 << torch.arange(width, device=packed.device)
    return (bits.view(-1, width) * weights).sum(1).view(-1, columns)


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
