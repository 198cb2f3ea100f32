"""Least squares under H for weights that are linear in some of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]


def solve_linear_parts(
    weight: Tensor,
    second_moment: Tensor,
    parts: Parts,
    decode: Callable[[Parts], Tensor],
    pullback: Callable[[Tensor], Parts],
    steps: int,
) -> dict[str, Tensor]:
    """Lower ``tr((W - Ŵ) H (W - Ŵ)ᵀ)`` over numbers that Ŵ is linear in, codes fixed.

    Conjugate gradient on the normal equations, each number preconditioned by the diag(H) of the
    weights that it is added to (exact for H diagonal and codebooks whose uses do not overlap).

    Args:
        weight: ``(out, in)``.
        second_moment: H, ``(in, in)``.
        parts: where to start, by name.
        decode: Ŵ ``(out, in)`` of some parts; linear.
        pullback: its adjoint: the gradient of each part from that of Ŵ.
        steps: of conjugate gradient.

    Returns:
        The parts with a lower or equal loss (up to float32 rounding).
    """
    uses = pullback(second_moment.diagonal().expand_as(weight).contiguous())
    # Numbers that nothing uses have no gradient, and keep their value.
    scale = {
        name: torch.where(use > 0, use.clamp_min(1e-30).reciprocal(), 0.0)
        for name, use in uses.items()
    }
    solution = {name: part.clone() for name, part in parts.items()}
    residual = dict(pullback((weight - decode(parts)) @ second_moment))
    direction = {name: scale[name] * part for name, part in residual.items()}
    slope = _dot(residual, direction)
    # Below float32's precision a recurrence drifts away from the optimum that it has reached.
    least = slope * torch.finfo(torch.float32).eps ** 2
    for _ in range(steps):
        image = pullback(decode(direction) @ second_moment)
        direction_curvature = _dot(direction, image)
        usable = (direction_curvature > 0) & (slope > least)
        length = torch.where(usable, slope / direction_curvature, 0.0)
        for name in solution:
            solution[name] += length * direction[name]
            residual[name] = residual[name] - length * image[name]
        preconditioned = {name: scale[name] * part for name, part in residual.items()}
        new_slope = _dot(residual, preconditioned)
        ratio = torch.where(slope > 0, new_slope / slope, 0.0)
        direction = {name: preconditioned[name] + ratio * direction[name] for name in solution}
        slope = new_slope
    return solution


def _dot(one: Parts, other: Parts) -> Tensor:
    return torch.stack([(part * other[name]).sum() for name, part in one.items()]).sum()
