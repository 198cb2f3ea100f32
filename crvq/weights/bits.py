"""Bits, counted by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class BitCount:
    """What a quantized weight weighs, in bits (not bits a weight), part by part."""

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
        return BitCount(
            **{f.name: getattr(self, f.name) + getattr(more, f.name) for f in fields(self)}
        )

    def as_dict(self) -> dict[str, float]:
        """Parts by name."""
        return asdict(self)
