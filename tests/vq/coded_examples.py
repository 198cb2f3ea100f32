"""Small random linears with codes, and slow, independent calculations on them in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.additive_code import AdditiveCode, CodedLinear, coded_linear
from crvq.vq.hessian import Hessian


def second_moment(features: int, seed: int, condition: float = 100.0) -> Tensor:
    """A random symmetric matrix with eigenvalues spread evenly in logarithm: ``(in, in)``."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(
        torch.randn(features, features, generator=generator, dtype=torch.float64)
    )
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), features)
    matrix = (basis * values.double()) @ basis.T
    return ((matrix + matrix.T) / 2).float()


def random_linear(
    out: int = 6,
    groups: int = 4,
    d: int = 2,
    coverage: tuple[int, ...] = (4,),
    entries: tuple[int, ...] = (4,),
    seed: int = 0,
    condition: float = 100.0,
    damping: float = 0.01,
) -> tuple[CodedLinear, list[Tensor]]:
    """A linear with random codes and scales, and random codebooks."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, groups * d, generator=generator)
    hessian = Hessian(second_moment(groups * d, seed + 1, condition), damping)
    scales = 0.5 + torch.rand(out, generator=generator)
    order = torch.arange(groups * d)
    linear = coded_linear(weight, hessian, order, list(coverage), scales)
    for k, size in enumerate(entries):
        linear.code.codes[k] = torch.randint(size, (out, coverage[k]), generator=generator)
    codebooks = [
        torch.randn(size, d, generator=generator) / (k + 1) for k, size in enumerate(entries)
    ]
    return linear, codebooks


def naive_row(code: AdditiveCode, codebooks: list[Tensor], row: int) -> Tensor:
    """One decoded row, scaled, by its definition, float64."""
    parts = []
    for group in range(code.groups):
        value = torch.zeros(codebooks[0].shape[1], dtype=torch.float64)
        for codes, codebook in zip(code.codes, codebooks, strict=True):
            if group < codes.shape[1]:
                value += codebook[codes[row, group]].double()
        parts.append(value)
    return torch.cat(parts) * code.scales[row].double()


def naive_row_loss(
    linear: CodedLinear,
    codebooks: list[Tensor],
    row: int,
    code: AdditiveCode | None = None,
    matrix: Tensor | None = None,
) -> float:
    """One row's ``(w - ŵ) H (w - ŵ)ᵀ`` in float64."""
    order = linear.order
    error = linear.weight[row, order].double() - naive_row(code or linear.code, codebooks, row)
    h = linear.hessian.matrix[order][:, order] if matrix is None else matrix
    return float(error @ h.double() @ error)


def naive_loss(linear: CodedLinear, codebooks: list[Tensor]) -> float:
    """``tr((W - Ŵ) H (W - Ŵ)ᵀ)`` in float64."""
    return sum(naive_row_loss(linear, codebooks, row) for row in range(len(linear.weight)))


def copied_codes(linear: CodedLinear) -> list[Tensor]:
    """The codes as they are now."""
    return [codes.clone() for codes in linear.code.codes]
