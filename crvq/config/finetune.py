"""Fine-tuning: what is trained after quantization, on which windows, and how."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from crvq.config.calibration import CalibrationConfig
from crvq.config.strict import Neutral, NeutralAt, StrictModel
from crvq.errors import ConfigError

FINETUNE_REVISION = 1
"""Raise by one when training gives other results for the same configuration (part of identity)."""

Decay = Annotated[float, Field(ge=0, lt=1)]
TrainedKind = Literal["codebooks", "scales", "norms"]


class WindowSplit(NamedTuple):
    """How many windows train, and how many validate."""

    train: int
    validation: int


class CodesConfig(StrictModel):
    """Codes that change while a stage trains: PV-Tuning (arXiv 2405.14852)."""

    rule: Literal["newton", "straight_through"] = Field(
        "newton",
        description="where codes are to bring the weight; newton: to the minimum of a quadratic "
        "model of the loss, by the mean gradient and the Gauss-Newton diagonal; straight_through: "
        "to a dense weight that Adam moves (the authors)",
    )
    max_change: float = Field(
        0.01, gt=0, le=1, description="part of each tensor's groups that a code step may change"
    )
    period: int = Field(4, ge=1, description="steps between two code steps")
    beam: int = Field(
        5, ge=1, le=4096, description="candidates kept where several codebooks cover a group"
    )
    beta: Decay = Field(
        0.95, description="decay rate of dense gradients (newton) and of their squares"
    )
    damping: float = Field(
        4.0,
        ge=1,
        le=1e6,
        description="newton: factor on the hessian at first, since many codes change at once; "
        "it falls after steps that lowered the loss and rises after others, which are undone",
    )
    learning_rate: float = Field(
        0.01,
        gt=0,
        le=10,
        description="straight_through: of the buffer, as a part of each weight's root mean square; "
        "follows the stage's schedule",
    )
    delta_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="straight_through: part of the buffer's lead over the weight that is forgotten "
        "in each step; 1: codes follow the last gradient alone",
    )


class ZerothOrderConfig(StrictModel):
    """Two forward passes instead of a backward one (ZeroQAT, arXiv 2509.00031)."""

    distance: float = Field(
        1e-2,
        gt=0,
        le=1,
        description="how far along a random direction losses are taken, to both sides; as the "
        "learning rate, a part of each tensor's root mean square where relative_rate is set",
    )
    directions: int = Field(
        1, ge=1, le=1024, description="whose estimates a step takes the mean of"
    )


class TrainingConfig(StrictModel):
    """What both stages of fine-tuning have in common: Adam and when it stops."""

    learning_rate: float = Field(gt=0, le=1000, description="Adam's, at the top of the schedule")
    relative_rate: bool = Field(
        True,
        description="learning rates are parts of each tensor's root mean square (codebook entries "
        "are a hundredth of row scales); false: plain Adam, as the authors take",
    )
    scale_rate: float = Field(1.0, gt=0, le=1000, description="of scales, as a factor")
    norm_rate: float = Field(1.0, gt=0, le=1000, description="learning rate of norms, as a factor")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="Adam's decay rates")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="cosine falls to zero")
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps in which the rate rises")
    batch_size: int = Field(1, ge=1, description="windows in a step")
    epochs: int = Field(ge=1, description="passes over the training windows at most")
    patience: int | None = Field(
        None, ge=1, description="stop after so many validations without gain; null: never early"
    )
    max_skipped: int = Field(
        10, ge=0, description="stop after so many steps whose loss or gradient is not finite"
    )
    codes: Annotated[CodesConfig | None, NeutralAt(None)] = Field(
        None, description="change codes too (PV-Tuning); null: codes stay"
    )
    zeroth_order: Annotated[ZerothOrderConfig | None, NeutralAt(None)] = Field(
        None,
        description="plain gradient descent (no Adam) along differences of two forward passes, at "
        "the memory of inference; null: backward passes",
    )

    @model_validator(mode="after")
    def _codes_need_gradients(self) -> Self:
        if self.codes is not None and self.zeroth_order is not None:
            raise ValueError(
                "codes and zeroth_order are both set: codes change by dense gradients, which no "
                "backward pass leaves here; set codes=null or zeroth_order=null"
            )
        return self


class BlockConfig(TrainingConfig):
    """Block fine-tuning: a quantized block learns to give the full-precision block's outputs."""

    samples: int | None = Field(
        None,
        ge=2,
        description="windows, validation included, at least calibration.samples; null: all of "
        "finetune.samples",
    )
    loss: Literal["mse", "token_relative", "channel_moments"] = Field(
        "token_relative",
        description="mse: squared error over all tokens, in which a few huge activations rule; "
        "token_relative: each token's by its own energy, which is what the next norm sees; "
        "channel_moments: distance of each channel's mean and variance (norm tweaking)",
    )
    targets: Literal["block", "model"] = Field(
        "block",
        description="block: the full-precision block's outputs for the quantized prefix's inputs "
        "(the authors); model: the full-precision model's own outputs of that block",
    )

    @model_validator(mode="after")
    def _newton_has_a_hessian(self) -> Self:
        newton = self.codes is not None and self.codes.rule == "newton"
        if self.loss == "channel_moments" and newton:
            raise ValueError(
                "loss=channel_moments with codes.rule=newton: its hessian is not that of a squared "
                "error; set loss=mse or token_relative, or codes.rule=straight_through"
            )
        return self


class EndToEndConfig(TrainingConfig):
    """End-to-end fine-tuning: KL divergence to the full-precision model's predictions."""

    steps: int | None = Field(None, ge=1, description="stop after so many; null: as epochs say")
    length: int | None = Field(
        None, ge=2, description="windows are cut to this many tokens; null: calibration.length"
    )
    microbatch: Annotated[int, Neutral] = Field(
        1, ge=1, description="windows in one forward and backward pass"
    )
    validate_every: int = Field(50, ge=1, description="steps between validations")
    save_every: Annotated[int, Neutral] = Field(
        50, ge=1, description="steps between saved states; a resume starts there"
    )
    teacher: Literal["hidden_states", "top_k"] = Field(
        "hidden_states",
        description="what is kept of the full-precision model: its last hidden states (exact, the "
        "head is applied again), or its top_k predictions and the tail's mass",
    )
    top_k: int = Field(128, ge=1, description="teacher=top_k: predictions kept for a token")
    gradient_checkpointing: Annotated[bool, Neutral] = Field(
        False, description="keep only each block's input and compute it twice: less memory"
    )
    sharding: Annotated[Literal["auto", "none", "fsdp"], Neutral] = Field(
        "auto",
        description="with torchrun: each process holds a part of the blocks' weights (fsdp) or all "
        "of them (none: as much memory, far fewer transfers); auto: fsdp on GPUs",
    )


class FinetuneConfig(StrictModel):
    """The finetune group."""

    samples: int | None = Field(
        None,
        ge=2,
        description="windows drawn from the calibration text for fine-tuning, at least "
        "calibration.samples; null: just these",
    )
    validation: float = Field(0.125, gt=0, lt=1, description="part of the windows that validates")
    train: tuple[TrainedKind, ...] = Field(
        ("codebooks", "scales", "norms"), min_length=1, description="norms: biases too"
    )
    block: BlockConfig | None = None
    end_to_end: EndToEndConfig | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is to be trained."""
        return self.block is not None or self.end_to_end is not None

    def identity(self) -> dict[str, Any]:
        """Return nothing where nothing is trained: the other keys have no effect then."""
        return super().identity() if self.asked else {}

    def windows(self, calibration: CalibrationConfig) -> int:
        """Windows to draw from the calibration text."""
        return max(calibration.samples, self.samples or 0) if self.asked else calibration.samples

    def split(self, calibration: CalibrationConfig, total: int) -> WindowSplit:
        """Return the first windows train, the last validate; training windows are whole batches."""
        validation = max(1, ceil(self.validation * total))
        train = (total - validation) // calibration.batch_size * calibration.batch_size
        return WindowSplit(train, total - train)

    def block_split(self, calibration: CalibrationConfig) -> WindowSplit:
        """Windows of the block stage: a part of all those drawn."""
        total = self.windows(calibration)
        if self.block is not None and self.block.samples is not None:
            total = min(total, max(self.block.samples, calibration.samples))
        return self.split(calibration, total)

    def end_to_end_split(self, calibration: CalibrationConfig) -> WindowSplit:
        """Windows of the end-to-end stage, cut to its length."""
        train, validation = self.split(calibration, self.windows(calibration))
        pieces = 1
        if self.end_to_end is not None and self.end_to_end.length is not None:
            pieces = calibration.length // self.end_to_end.length
        return WindowSplit(train * pieces, validation * pieces)

    def end_to_end_steps(self, calibration: CalibrationConfig) -> int:
        """Steps of the end-to-end stage."""
        assert self.end_to_end is not None
        an_epoch = -(-self.end_to_end_split(calibration).train // self.end_to_end.batch_size)
        return self.end_to_end.steps or an_epoch * self.end_to_end.epochs


def check_finetune(config: FinetuneConfig, calibration: CalibrationConfig) -> None:
    """Refuse what cannot be trained on the windows that there are.

    Raises:
        ConfigError: names the key, what was seen, and which value would do.
    """
    if config.block is not None:
        _check_block(config, config.block, calibration)
    if config.end_to_end is not None:
        _check_end_to_end(config, config.end_to_end, calibration)


def _check_block(
    config: FinetuneConfig, block: BlockConfig, calibration: CalibrationConfig
) -> None:
    total, passed = config.windows(calibration), calibration.batch_size
    if block.samples is not None and block.samples > total:
        raise ConfigError(
            f"finetune.block.samples={block.samples}: only {total} windows are drawn; set "
            f"finetune.samples={block.samples}, or finetune.block.samples={total} or less"
        )
    train, validation = config.block_split(calibration)
    if train < 1:
        raise ConfigError(
            f"finetune.block: of {train + validation} windows none is left to train on with "
            f"finetune.validation={config.validation:g} and calibration.batch_size={passed}; set "
            f"finetune.samples={2 * passed + validation} or more, or calibration.batch_size=1"
        )
    if block.batch_size % passed:
        raise ConfigError(
            f"finetune.block.batch_size={block.batch_size} is not made of whole passes of "
            f"calibration.batch_size={passed} windows; set finetune.block.batch_size="
            f"{-(-block.batch_size // passed) * passed}, or calibration.batch_size=1"
        )
    _check_batch("block", block.batch_size, train, validation)


def _check_end_to_end(
    config: FinetuneConfig, stage: EndToEndConfig, calibration: CalibrationConfig
) -> None:
    if stage.length is not None and stage.length > calibration.length:
        raise ConfigError(
            f"finetune.end_to_end.length={stage.length} is more than the {calibration.length} "
            f"tokens of calibration.length; set finetune.end_to_end.length={calibration.length} "
            f"or less, or calibration.length={stage.length}"
        )
    train, validation = config.end_to_end_split(calibration)
    if train < 1:
        raise ConfigError(
            f"finetune.end_to_end: of {validation} windows none is left to train on with "
            f"finetune.validation={config.validation:g}; set finetune.samples to more"
        )
    _check_batch("end_to_end", stage.batch_size, train, validation)
    if stage.batch_size % stage.microbatch:
        raise ConfigError(
            f"finetune.end_to_end.batch_size={stage.batch_size} is not made of whole microbatches "
            f"of {stage.microbatch}; set finetune.end_to_end.batch_size="
            f"{-(-stage.batch_size // stage.microbatch) * stage.microbatch}"
        )
    possible = -(-train // stage.batch_size) * stage.epochs
    if stage.steps is not None and stage.steps > possible:
        epochs = -(-stage.steps * stage.batch_size // train)
        raise ConfigError(
            f"finetune.end_to_end.steps={stage.steps}: {stage.epochs} epochs of {train} windows, "
            f"{stage.batch_size} a step, are {possible} steps; set finetune.end_to_end.steps="
            f"{possible} or less, finetune.end_to_end.epochs={epochs}, or finetune.samples to more"
        )


def _check_batch(stage: str, batch_size: int, train: int, validation: int) -> None:
    if batch_size > train:
        raise ConfigError(
            f"finetune.{stage}.batch_size={batch_size} does not fit: {train} windows train (and "
            f"{validation} validate); set finetune.{stage}.batch_size={train} or less, or "
            "finetune.samples to more"
        )
