"""How far a block's outputs are from its targets."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

BlockLoss = Literal["mse", "token_relative"]


def block_loss(name: BlockLoss, outputs: Tensor, targets: Tensor, energy: float) -> Tensor:
    """A scalar without unit: 0 is equal, 1 is as far off as zeros.

    ``mse`` is the mean squared error (the authors' choice), divided by a constant. A few tokens
    whose activations are a thousand times larger than others' (attention sinks) rule it.
    ``token_relative`` is the mean over tokens of ``‖y - t‖² / ‖t‖²``: the next block's norm
    divides each token by its size, and so does this.

    Args:
        name: which of the two.
        outputs: y, ``(..., hidden)``.
        targets: t, as ``outputs``.
        energy: mean of t² over all tokens, for ``mse``.
    """
    error = (outputs.float() - targets.float()).square()
    if name == "mse":
        return error.mean() / max(energy, 1e-30)
    own = targets.float().square().sum(-1).clamp_min(1e-30)
    return (error.sum(-1) / own).mean()
