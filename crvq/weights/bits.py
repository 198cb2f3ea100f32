"""Bits, counted by part. `BitCount` is the one list of parts; everything else derives from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

BitPart = Literal["codes", "codebooks", "scales", "permutation", "other"]
"""What a stored field counts as; a new part is a name here and a number in `BitCount`."""


@dataclass(frozen=True)
class BitCount:
    """Bits of a quantized weight (totals, not bits per weight), by part."""

    codes: float = 0.0
    codebooks: float = 0.0
    scales: float = 0.0
    permutation: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All parts together."""
        return float(sum(asdict(self).values()))

    def __add__(self, more: BitCount) -> BitCount:
        return BitCount(**{part: getattr(self, part) + getattr(more, part) for part in BIT_PARTS})

    def as_dict(self) -> dict[str, float]:
        """Parts by name."""
        return asdict(self)


BIT_PARTS: tuple[str, ...] = tuple(field.name for field in fields(BitCount))
"""Names of all parts, in the order in which tables show them."""
