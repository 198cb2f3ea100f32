"""Train a block's quantized weights to give the outputs of the full-precision block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crvq.config.finetune import FinetuneConfig
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.finetune.free_values import FreeValues, QuantizedSlot, norm_parameters
from crvq.finetune.training import Loss, Training
from crvq.team import team
from crvq.weights.quantized import QuantizedWeight

BlockLoss = Literal["mse", "token_relative", "channel_moments"]


def block_loss(name: BlockLoss, outputs: Tensor, targets: Tensor, energy: float) -> Tensor:
    """A scalar without unit: 0 is equal, 1 is as far off as zeros.

    ``mse`` is the mean squared error (the authors' choice), divided by a constant. A few tokens
    whose activations are a thousand times larger than others' (attention sinks) rule it.
    ``token_relative`` is the mean over tokens of ``‖y - t‖² / ‖t‖²``: the next block's norm
    divides each token by its size, and so does this. ``channel_moments`` is norm tweaking's (arXiv
    2309.02784, equation 2): over channels, the sum of the distances of mean and variance (over the
    batch's tokens), divided by what it is for zeros.

    Args:
        name: which of them.
        outputs: y, ``(..., hidden)``.
        targets: t, as ``outputs``.
        energy: mean of t² over all tokens, for ``mse``.
    """
    if name == "channel_moments":
        found, wanted = _moments(outputs), _moments(targets)
        distance = (found - wanted).abs().sum()
        return distance / wanted.abs().sum().clamp_min(1e-30)
    error = (outputs.float() - targets.float()).square()
    if name == "mse":
        return error.mean() / max(energy, 1e-30)
    own = targets.float().square().sum(-1).clamp_min(1e-30)
    return (error.sum(-1) / own).mean()


def _moments(values: Tensor) -> Tensor:
    """Return each channel's mean and variance over tokens, ``(2, hidden)``."""
    rows = values.float().flatten(0, -2)
    return torch.stack([rows.mean(0), rows.var(0, correction=0)])


def block_probe(
    name: BlockLoss,
    outputs: Tensor,
    targets: Tensor,
    energy: float,
    generator: torch.Generator,
) -> Tensor:
    """A random scalar whose squared gradients are, on average, the loss's hessian.

    The loss is ``Σ a (y - t)²``; its Gauss-Newton matrix in any parameters is ``2 Jᵀ A J``, whose
    diagonal is the mean of squared gradients of ``Σ √(2a) ε y`` over random signs ε (Hutchinson).

    Args:
        name: of the loss.
        outputs: y, with a graph.
        targets: t.
        energy: as for `block_loss`.
        generator: of the signs; on the CPU, so that all devices draw the same.
    """
    signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs.device) * 2.0 - 1
    if name == "mse":
        weights = torch.tensor(1 / max(energy, 1e-30) / outputs.numel(), device=outputs.device)
    else:
        own = targets.float().square().sum(-1, keepdim=True).clamp_min(1e-30)
        weights = 1 / own / (outputs.numel() // outputs.shape[-1])
    return ((2 * weights).sqrt() * signs * outputs.float()).sum()


@dataclass(frozen=True)
class BlockBatches:
    """What a block is trained on: batches of windows, those for validation last."""

    run: Callable[[int], Tensor]
    """The block's outputs ``(windows, tokens, hidden)`` for a batch, with a graph."""
    targets: Sequence[Tensor]
    train: int
    """How many batches train; the rest validates. Of all processes, as ``count`` is."""
    count: int | None = None
    """How many batches there are; ``run`` and ``targets`` have this process's share of them. None:
    this process has all."""


@dataclass(frozen=True)
class TunedBlock:
    """A block after its training."""

    weights: dict[str, QuantizedWeight]
    """Those that were trained, by name, as they are stored."""
    others: dict[str, Tensor]
    """Trained norms and biases by name, 16 bits."""
    summary: TrainingSummary
    points: list[CurvePoint]


def finetune_block(
    index: int,
    block: nn.Module,
    linears: Sequence[QuantizedSlot],
    batches: BlockBatches,
    config: FinetuneConfig,
    passes: int,
    seed: int,
    fixed_sets: Collection[str] = (),
) -> TunedBlock | None:
    """Train a block's codebooks, scales and norms (arXiv 2412.09282, algorithm 1's last step).

    Args:
        index: of the block, for the curve.
        block: with quantized weights in place; it ends with the best ones found.
        linears: its quantized linears, named by kind.
        batches: inputs and targets.
        config: the finetune group; ``block`` must be set.
        passes: batches in a step.
        seed: of the order of batches.
        fixed_sets: codebooks that other blocks use too.

    Returns:
        None if nothing in the block can be trained. Otherwise the validation loss of what comes
        back is not above that of what came.
    """
    stage = config.block
    assert stage is not None
    free = FreeValues(
        linears,
        norm_parameters(block),
        config.train,
        stage.relative_rate,
        fixed_sets,
        codes=stage.codes is not None,
    )
    if not free.leaves:
        return None
    energy = _energy(batches)
    an_epoch = -(-batches.train // passes)
    steps = an_epoch * stage.epochs
    training = Training(
        free, stage, steps, an_epoch, an_epoch, "block", index, divided=True, seed=seed
    )

    def loss_of(batch: int) -> Tensor:
        return block_loss(stage.loss, batches.run(batch), batches.targets[batch], energy)

    def losses(step: int) -> Iterator[Loss]:
        for batch in batches_of(step, batches.train, passes, seed):
            own = team().local(batch)
            if own is not None:
                yield lambda batch=own: loss_of(batch)  # type: ignore[misc]

    @torch.no_grad()
    def validate() -> float:
        everything = len(batches.targets) if batches.count is None else batches.count
        held = range(batches.train, everything)
        own = [place for batch in held if (place := team().local(batch)) is not None]
        return team().total([sum(float(loss_of(batch)) for batch in own)])[0] / len(held)

    def probe(step: int) -> Tensor:
        batch = batches_of(step, batches.train, passes, seed)[0]
        generator = torch.Generator().manual_seed((seed + step) % 2**63)
        targets = batches.targets[batch]
        return block_probe(stage.loss, batches.run(batch), targets, energy, generator)

    summary = training.run(losses, validate, probe=probe)
    best = training.state.best
    if best is None:
        return TunedBlock({}, {}, summary, training.state.points)
    return TunedBlock(best.weights, best.others, summary, training.state.points)


def _energy(batches: BlockBatches) -> float:
    # One by one: targets may be kept on disk.
    own = range(len(team().mine(batches.train)))
    squares = (batches.targets[batch].float().square().mean() for batch in own)
    return team().total([sum(float(one) for one in squares)])[0] / batches.train


def batches_of(step: int, train: int, passes: int, seed: int) -> list[int]:
    """Which batches a step sees: every epoch has an order of its own."""
    an_epoch = -(-train // passes)
    epoch, place = divmod(step, an_epoch)
    generator = torch.Generator().manual_seed((seed + epoch) % 2**63)
    order = torch.randperm(train, generator=generator)
    return order[place * passes : (place + 1) * passes].tolist()
