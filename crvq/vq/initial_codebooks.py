"""Codebooks to start from: residual k-means, weighted by what errors cost."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.additive_code import CodedLinear
from crvq.vq.kmeans import kmeans, nearest_centroids


def initial_codebooks(
    linears: list[CodedLinear],
    entries: list[int],
    iterations: int,
    sample: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """Fit one k-means codebook, then one on each residual where the next codebook applies.

    Vectors are weighted by ``s_o² / diag(H⁻¹)``: what an error costs once the channels coded later
    have compensated it. A codebook never has more entries than there are vectors for it, and when a
    residual is zero everywhere (as many entries as vectors), the codebooks after it are left out,
    and with them the linears' codes for them.

    Args:
        linears: that share the codebooks; their codes give the coverage.
        entries: wanted sizes, one per codebook.
        iterations: Lloyd iterations for each.
        sample: vectors looked at for each.
        generator: a CPU generator.

    Returns:
        Codebooks ``(entries_k, d)``; possibly fewer than asked for.
    """
    codebooks: list[Tensor] = []
    for k, size in enumerate(entries):
        # Each codebook sees its own draw: k-means needs a few vectors per entry, not all of them.
        chosen = _draw(linears, k, max(sample, 4 * size), generator)
        parts = [_residual(x, c, codebooks) for x, c in zip(linears, chosen, strict=True)]
        vectors = torch.cat([residual for residual, _ in parts])
        weights = torch.cat([weight for _, weight in parts])
        # No group is covered, or earlier codebooks already reproduce every vector exactly: a
        # codebook of zeros would cost bits and change nothing.
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
    # One draw over all linears, so that each is represented by its number of vectors.
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
    # Codebooks describe W / s in coded order: fetch the channels that the group holds.
    members = linear.order.view(linear.code.groups, -1)[groups]
    vectors = linear.weight[rows[:, None], members] / scales
    inv_diag_weight = linear.inv_diag_weight.view(linear.code.groups, -1)[groups]
    # An error of the scaled vector is multiplied by s when decoded, its square by s².
    weights = scales.square() * linear.importance * inv_diag_weight
    # Greedy residual quantization; codebook k changes only the groups that it covers.
    for codebook, groups_under in zip(codebooks, coverage, strict=False):
        nearest, _ = nearest_centroids(vectors, weights, codebook)
        vectors -= codebook[nearest] * (groups < groups_under)[:, None]
    return vectors, weights
