"""Codebooks to start from: residual k-means weighed by what errors cost."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.coded_linear import CodedLinear
from crvq.vq.kmeans import kmeans, nearest_centroids


def initial_codebooks(
    linears: list[CodedLinear],
    entries: list[int],
    iterations: int,
    sample: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """One k-means codebook, then one on each residual where the next codebook applies.

    Vectors are weighed by ``s_o² / diag(H⁻¹)``: what an error costs once the channels coded later
    have answered it. A codebook never has more entries than there are vectors for it, and when a
    residual is zero everywhere (as many entries as vectors), the codebooks after it are left out,
    and with them the linears' codes for them.

    Args:
        linears: that share the codebooks; their codes tell the coverage.
        entries: wanted sizes, one a codebook.
        iterations: Lloyd iterations for each.
        sample: vectors looked at for each.
        generator: a CPU generator.

    Returns:
        Codebooks ``(entries_k, d)``; possibly fewer than asked for.
    """
    residuals = [_vectors(linear) for linear in linears]
    weights = [_weights(linear) for linear in linears]
    codebooks: list[Tensor] = []
    for k, size in enumerate(entries):
        covered = [linear.code.codes[k].shape[1] for linear in linears]
        x = torch.cat([r[:, :g].flatten(0, 1) for r, g in zip(residuals, covered, strict=True)])
        h = torch.cat([w[:, :g].flatten(0, 1) for w, g in zip(weights, covered, strict=True)])
        if not len(x) or (codebooks and not bool(x.any())):
            break
        codebook = kmeans(x, h, size, iterations, generator, sample)
        codebooks.append(codebook)
        for residual, weight, groups in zip(residuals, weights, covered, strict=True):
            part = residual[:, :groups]
            nearest, _ = nearest_centroids(
                part.flatten(0, 1), weight[:, :groups].flatten(0, 1), codebook
            )
            residual[:, :groups] = part - codebook[nearest].view_as(part)
    for linear in linears:
        del linear.code.codes[len(codebooks) :]
    return codebooks


def _vectors(linear: CodedLinear) -> Tensor:
    """Weights over row scales as ``(out, groups, d)``."""
    scaled = linear.weight / linear.code.scales[:, None]
    return scaled.view(len(scaled), linear.code.groups, -1).clone()


def _weights(linear: CodedLinear) -> Tensor:
    """Costs of errors, shaped as `_vectors`; comparable between linears."""
    rows = linear.code.scales.square() * linear.importance
    return (rows[:, None] * linear.stiffness).view(len(rows), linear.code.groups, -1)
