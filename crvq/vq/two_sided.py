"""Scales of rows and columns around a fixed matrix, and its start by low-rank binary factors."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.binary import signed
from crvq.vq.scale_solve import best_scales

_RIDGE = 1e-6
"""Of the column system, relative to its mean diagonal: it is singular where columns are dead."""


def rank_one(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(a, b)`` with the least ``‖M - a bᵀ‖²`` of a non-negative M, both non-negative.

    The first pair of singular vectors, which Perron and Frobenius make non-negative: SVD and NMF of
    rank one agree (sign-value-independent decomposition, OneBit, arXiv 2402.11295, section 3.3).
    """
    left, values, right = torch.linalg.svd(magnitudes.double(), full_matrices=False)
    root = values[0].sqrt()
    return (root * left[:, 0].abs()).float(), (root * right[0].abs()).float()


def fit_two_sided(
    weight: Tensor, core: Tensor, moment: Tensor, scales: tuple[Tensor, Tensor], iterations: int
) -> tuple[Tensor, Tensor]:
    """Return scales with less ``tr(E H Eᵀ)``, ``E = W - diag(a) C diag(b)``: a and b in turn.

    Each turn is the least-squares optimum of one with the other fixed: for b it solves
    ``((Cᵀ diag(a²) C) ∘ H) b = diag(Cᵀ diag(a) W H)``.

    Args:
        weight: W, ``(out, in)``.
        core: C, ``(out, in)``.
        moment: H, ``(in, in)``.
        scales: a ``(out,)`` and b ``(in,)`` to start from.
        iterations: turns of both; 0 returns the start.
    """
    rows, columns = scales
    for _ in range(iterations):
        # Rows have a closed form each; columns hang together through H and need one solve.
        decoded = core * columns
        rows = best_scales(weight, decoded, decoded @ moment, rows)
        scaled = (rows[:, None] * core).double()
        # The Hadamard product with H: an error of column i meets one of column j as H_ij says.
        system = (scaled.T @ scaled) * moment
        target = (scaled * (weight @ moment)).sum(0)
        ridge = _RIDGE * system.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        system.diagonal().add_(ridge)
        # The ridge pulls towards the present scales, so that dead columns keep theirs.
        columns = torch.linalg.solve(system, target + ridge * columns).float()
    return rows, columns


def binary_factors(
    weight: Tensor, rank: int, iterations: int, regularization: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return signs and scales of ``W ≈ diag(a) U Vᵀ diag(b)``, U and V of ±1, by ADMM.

    Latent factors follow ridge regressions (U with V fixed, then V with U), each pulled towards
    the nearest matrix ``diag(a) sign`` of its own by a penalty that grows linearly; scaled dual
    variables remember the distance. Columns of the two latent factors are balanced to equal norms,
    which moves no product. (NanoQuant, arXiv 2602.06694, LB-ADMM.)

    Args:
        weight: ``(out, in)``, scaled by importance.
        rank: columns of U and V.
        iterations: of both regressions.
        regularization: ridge, relative to the mean of the Gram matrix's diagonal.
        seed: of directions beyond the weight's own rank.

    Returns:
        U ``(out, rank)`` and V ``(in, rank)`` bool, a ``(out,)``, b ``(in,)``.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    known = min(rank, len(values))
    root = values[:known].sqrt()
    draw = torch.Generator().manual_seed(seed)
    # A random rotation spreads the strongest directions over all columns: signs carry them equally.
    mixed = torch.randn(rank, rank, generator=draw).to(weight.device)
    turn = torch.linalg.qr(mixed)[0][:known]
    u, v = (left[:, :known] * root) @ turn, (right[:known].T * root) @ turn
    u_dual, v_dual = torch.zeros_like(u), torch.zeros_like(v)
    u_near, v_near = _nearest(u), _nearest(v)
    for iteration in range(iterations):
        # Loose at first, so that factors may move; at the end they nearly are signs times scales.
        penalty = (iteration + 1) / iterations
        u = _regress(weight, v, u_near - u_dual, penalty, regularization)
        u_near = _nearest(u + u_dual)
        u_dual = u_dual + u - u_near
        v = _regress(weight.T, u, v_near - v_dual, penalty, regularization)
        v_near = _nearest(v + v_dual)
        v_dual = v_dual + v - v_near
        # Only products count: equal norms keep either regression from being badly scaled.
        balance = (u.norm(dim=0) / v.norm(dim=0).clamp_min(1e-12)).clamp_min(1e-12).sqrt()
        u, u_near, u_dual = u / balance, u_near / balance, u_dual / balance
        v, v_near, v_dual = v * balance, v_near * balance, v_dual * balance
    u_sign, v_sign = u_near >= 0, v_near >= 0
    return u_sign, v_sign, u_near.abs().mean(1), v_near.abs().mean(1)


def _nearest(factor: Tensor) -> Tensor:
    """Return the nearest matrix of one magnitude per row."""
    return factor.abs().mean(1, keepdim=True) * signed(factor >= 0)


def _regress(
    weight: Tensor, other: Tensor, towards: Tensor, penalty: float, regularization: float
) -> Tensor:
    """Minimize ``‖W - U Vᵀ‖² + p ‖U - Z‖² + λ ‖U‖²`` over U, p and λ relative to VᵀV."""
    gram = other.T @ other
    mean = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    coupling, ridge = penalty * mean, regularization * mean
    target = weight @ other + coupling * towards
    gram.diagonal().add_(coupling + ridge)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(target.T, factor).T
