"""Real matrices as two complex ones, and their rounding to the phases 1, i, -1, -i.

(Fairy2i, arXiv 2512.02901.) With rows and columns in two halves, ``y = U x + V conj(x)`` on complex
vectors does what a real matrix does on pairs of real ones: for every real matrix there is one
such pair (U, V).
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-6
"""Of the scales' system, relative to its mean diagonal: a phase may not occur in a row."""


def to_complex(weight: Tensor) -> Tensor:
    """Return (U, V) as ``(2, out / 2, in / 2)``, complex, of a real ``(out, in)`` of even sizes."""
    rows, columns = weight.shape[0] // 2, weight.shape[1] // 2
    r11, r12 = weight[:rows, :columns], weight[:rows, columns:]
    r21, r22 = weight[rows:, :columns], weight[rows:, columns:]
    u = torch.complex(r11 + r22, r21 - r12)
    v = torch.complex(r11 - r22, r12 + r21)
    return torch.stack([u, v]) / 2


def to_real(pair: Tensor) -> Tensor:
    """Return the real ``(..., out, in)`` of (U, V), ``(..., 2, out / 2, in / 2)``."""
    u, v = pair.unbind(-3)
    top = torch.cat([u.real + v.real, v.imag - u.imag], -1)
    bottom = torch.cat([u.imag + v.imag, u.real - v.real], -1)
    return torch.cat([top, bottom], -2)


def phase_values(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the pairs that stages add up to.

    Args:
        codes: ``(stages, 2, rows, columns)``: 0 to 3 for 1, i, -1, -i.
        scales: of real and imaginary phases, ``(stages, 2, rows, 2)``.
    """
    sign = 1 - 2 * (codes >= 2).to(scales.dtype)
    imaginary = (codes % 2).to(scales.dtype)
    real = sign * (1 - imaginary) * scales[..., 0, None]
    return torch.complex(real, sign * imaginary * scales[..., 1, None]).sum(0)


def nearest_phases(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return the phase nearest in angle, and the mean magnitude along it.

    Args:
        pair: ``(2, rows, columns)``, complex.

    Returns:
        Codes ``(2, rows, columns)`` and scales ``(2, rows, 2)``.
    """
    real, imaginary = pair.real, pair.imag
    # The four phases lie on the axes, so the larger part decides between them, its sign within.
    upright = imaginary.abs() > real.abs()
    along = torch.where(upright, imaginary, real)
    codes = upright.long() + 2 * (along < 0).long()
    sizes = [
        (along.abs() * kind).sum(-1) / kind.sum(-1).clamp_min(1) for kind in (~upright, upright)
    ]
    return codes, torch.stack(sizes, -1)


def fit_phase_scales(weight: Tensor, codes: Tensor, moment: Tensor, start: Tensor) -> Tensor:
    """Return the scales with the least ``tr(E H Eᵀ)`` for these phases, by least squares.

    Rows o and ``o + out / 2`` of the weight depend on ``4 stages`` scales of their own.

    Args:
        weight: ``(out, in)``.
        codes: ``(stages, 2, rows, columns)``.
        moment: H, ``(in, in)``.
        start: ``(stages, 2, rows, 2)``; what the ridge pulls towards.
    """
    stages, _, rows, _ = codes.shape
    # The decoded weight is linear in the scales; each basis matrix has one scale 1, the others 0.
    basis = []
    for stage in range(stages):
        for one in range(4):
            unit = torch.zeros(1, 2, rows, 2, device=codes.device)
            unit[0, one // 2, :, one % 2] = 1
            real = to_real(phase_values(codes[stage : stage + 1], unit))
            basis.append(real.unflatten(0, (2, rows)))
    vectors = torch.stack(basis).permute(2, 0, 1, 3)  # (rows, 4 stages, 2, in)
    moved = vectors @ moment
    system = torch.einsum("rkhi,rlhi->rkl", moved, vectors).double()
    targets = weight.unflatten(0, (2, rows)).transpose(0, 1)
    wanted = torch.einsum("rkhi,rhi->rk", moved, targets).double()
    # Phases that no weight of a row has leave its system singular.
    ridge = _RIDGE * system.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(torch.float32).tiny
    system.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    flat = start.permute(2, 0, 1, 3).reshape(rows, -1).double()
    found = torch.linalg.solve(system, wanted + ridge[:, None] * flat).to(weight.dtype)
    return found.view(rows, stages, 2, 2).permute(1, 2, 0, 3).contiguous()
