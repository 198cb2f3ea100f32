"""What happens during a run, as reported to progress bars, the run record and W&B."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crvq.finetune.curve import CurvePoint, TrainingSummary


@dataclass(frozen=True)
class LayerRow:
    """One quantized linear: a row of ``layers.csv``."""

    block: int
    name: str
    """Full module name, e.g. ``model.layers.0.self_attn.k_proj``."""
    kind: str
    """Name inside the block, e.g. ``self_attn.k_proj``."""
    out_features: int
    in_features: int
    critical_channels: int
    """In features that extended codebooks cover (0 for methods that have none)."""
    loss: float
    """tr(ΔW H ΔWᵀ) / out_features."""
    relative_loss: float
    """tr(ΔW H ΔWᵀ) / tr(W H Wᵀ)."""
    rounds: int
    seconds: float
    bits: float
    """Average bits per weight, everything counted."""
    bit_parts: dict[str, float] = field(default_factory=dict)
    """Bits (not averages) by part, named as in `crvq.weights.bits.BitCount`."""
    code_entropy: float | None = None
    """Bits per weight that ideal order-0 entropy coding would leave; None: no codes."""
    published_bits: float | None = None
    """Bits per weight as the method's authors count them, where that leaves parts out."""
    critical_in_features: str = ""
    """Which they are, as numbers with spaces between them, in the order of coding."""
    notes: str = ""
    """What the method did about a shape or input that does not fit; empty if nothing."""


class RunListener:
    """Hears of a run's progress. Every call does nothing unless a subclass says otherwise."""

    def stage_started(self, stage: str, total: int) -> None:
        """A stage such as ``quantize`` begins; it has ``total`` steps."""

    def stage_advanced(self, stage: str, note: str = "") -> None:
        """One step of a stage is done; ``note`` says what it was, for the eye."""

    def stage_finished(self, stage: str, seconds: float) -> None:
        """A stage is over."""

    def note(self, text: str) -> None:
        """Show what the run is busy with, inside the current step (the current linear, say)."""

    def linear_quantized(self, row: LayerRow) -> None:
        """A linear is quantized."""

    def block_quantized(self, block: int, rows: list[LayerRow], seconds: float) -> None:
        """All linears of a block are quantized and lie on disk."""

    def block_trained(self, block: int, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """A block is fine-tuned and is stored; reported again when a run is resumed."""

    def model_trained(self, summary: TrainingSummary, points: list[CurvePoint]) -> None:
        """The whole model is fine-tuned."""

    def message(self, text: str) -> None:
        """A line for the log and the terminal."""

    def finished(self, record: dict[str, Any]) -> None:
        """The run is over; ``record`` is what ``record.json`` holds."""


class Listeners(RunListener):
    """Tells several listeners, in order."""

    def __init__(self, *listeners: RunListener) -> None:
        self._listeners = listeners

    def stage_started(self, stage: str, total: int) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.stage_started(stage, total)

    def stage_advanced(self, stage: str, note: str = "") -> None:  # noqa: D102
        for listener in self._listeners:
            listener.stage_advanced(stage, note)

    def stage_finished(self, stage: str, seconds: float) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.stage_finished(stage, seconds)

    def note(self, text: str) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.note(text)

    def linear_quantized(self, row: LayerRow) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.linear_quantized(row)

    def block_quantized(  # noqa: D102
        self, block: int, rows: list[LayerRow], seconds: float
    ) -> None:
        for listener in self._listeners:
            listener.block_quantized(block, rows, seconds)

    def block_trained(  # noqa: D102
        self, block: int, summary: TrainingSummary, points: list[CurvePoint]
    ) -> None:
        for listener in self._listeners:
            listener.block_trained(block, summary, points)

    def model_trained(  # noqa: D102
        self, summary: TrainingSummary, points: list[CurvePoint]
    ) -> None:
        for listener in self._listeners:
            listener.model_trained(summary, points)

    def message(self, text: str) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.message(text)

    def finished(self, record: dict[str, Any]) -> None:  # noqa: D102
        for listener in self._listeners:
            listener.finished(record)


def training_from_dict(stored: dict[str, Any]) -> tuple[TrainingSummary, list[CurvePoint]]:
    """Return a training's summary and loss curve from a checkpoint's plain values."""
    points = [CurvePoint(**point) for point in stored["points"]]
    return TrainingSummary(**stored["summary"]), points


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
