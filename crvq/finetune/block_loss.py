"""How far a block's outputs are from its targets."""

from __future__ import annotations

from typing import Literal

import torch
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
