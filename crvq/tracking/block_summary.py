"""A block's linears in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from crvq.tracking.events import LayerRow


@dataclass(frozen=True)
class BlockSummary:
    """Losses, bits and time of one block."""

    block: int
    relative_loss_mean: float
    """Plain mean over linears."""
    relative_loss_max: float
    bits: float
    """Average bits per weight, over all weights of the block's quantized linears."""
    seconds: float

    def __str__(self) -> str:
        return (
            f"block {self.block}: relative loss mean {self.relative_loss_mean:.4g}, "
            f"max {self.relative_loss_max:.4g}, {self.bits:.3f} bits, {self.seconds:.1f} s"
        )


def summarize_block(block: int, rows: list[LayerRow], seconds: float) -> BlockSummary:
    """Summarize the rows of one block; a block without linears has zeros."""
    losses = [row.relative_loss for row in rows]
    weights = [row.out_features * row.in_features for row in rows]
    total_bits = sum(row.bits * count for row, count in zip(rows, weights, strict=True))
    return BlockSummary(
        block=block,
        relative_loss_mean=sum(losses) / max(len(losses), 1),
        relative_loss_max=max(losses, default=0.0),
        bits=total_bits / max(sum(weights), 1),
        seconds=seconds,
    )
