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
        linears: that share the codebooks; their codes give the coverage.
        entries: wanted sizes, one a codebook.
        iterations: Lloyd iterations for each.
        sample: vectors looked at for each.
        generator: a CPU generator.

    Returns:
        Codebooks ``(entries_k, d)``; possibly fewer than asked for.
    """
    codebooks: list[Tensor] = []
    for k, size in enumerate(entries):
        chosen = _draw(linears, k, max(sample, 4 * size), generator)
        parts = [_residual(x, c, codebooks) for x, c in zip(linears, chosen, strict=True)]
        vectors = torch.cat([residual for residual, _ in parts])
        weights = torch.cat([weight for _, weight in parts])
        if not len(vectors) or (codebooks and not bool(vectors.any())):
            break
        codebooks.append(kmeans(vectors, weights, size, iterations, generator, len(vectors)))
    for linear in linears:
        del linear.code.codes[len(codebooks) :]
    return codebooks


def _draw(
    linears: list[CodedLinear], k: int, sample: int, generator: torch.Generator
) -> list[Tensor]:
    """For each linear, which of its sub-vectors under codebook k are looked at.

    A vector's number is ``row * covered groups + group``. All of them where ``sample`` allows.
    """
    counts = [linear.code.codes[k].numel() for linear in linears]
    device = linears[0].weight.device
    if sum(counts) <= sample:
        return [torch.arange(count, device=device) for count in counts]
    drawn = torch.randperm(sum(counts), generator=generator)[:sample].to(device)
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    return [
        drawn[(drawn >= offset) & (drawn < offset + count)] - offset
        for offset, count in zip(offsets, counts, strict=True)
    ]


def _residual(
    linear: CodedLinear, chosen: Tensor, codebooks: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What earlier codebooks leave of chosen sub-vectors, and the costs of errors, ``(n, d)``."""
    coverage = linear.code.coverage()
    covered = coverage[len(codebooks)]
    rows, groups = chosen // max(1, covered), chosen % max(1, covered)
    scales = linear.code.scales[rows, None]
    members = linear.order.view(linear.code.groups, -1)[groups]
    vectors = linear.weight[rows[:, None], members] / scales
    stiffness = linear.stiffness.view(linear.code.groups, -1)[groups]
    weights = scales.square() * linear.importance * stiffness
    for codebook, groups_under in zip(codebooks, coverage, strict=False):
        nearest, _ = nearest_centroids(vectors, weights, codebook)
        vectors -= codebook[nearest] * (groups < groups_under)[:, None]
    return vectors, weights
