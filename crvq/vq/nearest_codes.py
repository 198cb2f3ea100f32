"""The nearest codebook entries to targets, without ever holding all scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.tiles import tiles


def best_entries(
    targets: Tensor, metric: Tensor, codebook: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the ``count`` entries c with the least ``c M cᵀ - 2 t c`` for each target t.

    With ``t = x M`` this is ``‖x - c‖²_M`` less ``‖x‖²_M``, so scores compare across entries.

    Args:
        targets: ``(n, d)``.
        metric: M, ``(d, d)``, symmetric.
        codebook: ``(entries, d)``.
        count: entries kept; at most ``entries`` are.

    Returns:
        Scores and indices, each ``(n, min(count, entries))``, best first.
    """
    count = min(count, len(codebook))
    norms = ((codebook @ metric) * codebook).sum(1)
    transposed = codebook.T
    scores = targets.new_empty((len(targets), count))
    indices = torch.empty((len(targets), count), dtype=torch.int64, device=targets.device)
    for part in tiles(len(targets), len(codebook), targets.device):
        score = torch.addmm(norms, targets[part], transposed, alpha=-2)
        if count == 1:
            torch.min(score, 1, keepdim=True, out=(scores[part], indices[part]))
        else:
            torch.topk(score, count, dim=1, largest=False, out=(scores[part], indices[part]))
    return scores, indices


def nearest_codes(
    targets: Tensor, metric: Tensor, codes: Tensor, codebooks: list[Tensor], beam: int
) -> tuple[Tensor, Tensor]:
    """Choose new codes that lower ``Σ_j m_j (t_j - Σ_k C_k[b_k]_j)²`` for each vector.

    Codebooks take turns, as in AQLM's beam search (arXiv 2401.06118, section 3.2): each replaces
    its code in every kept candidate, and the ``beam`` best results are kept. The present codes
    are among the candidates, so no vector's distance rises. With one codebook the choice is the
    best of all; with two it is if ``beam`` is at least the entries of the first.

    Args:
        targets: t, ``(n, d)``, in the codebooks' units.
        metric: m >= 0, ``(n, d)``.
        codes: present codes, ``(n, codebooks)``, int64.
        codebooks: C_k, ``(entries_k, d)`` each.
        beam: candidates kept between two codebooks.

    Returns:
        Codes ``(n, codebooks)``, and by how much each vector's distance fell, ``(n,)``; exactly 0
        where the codes stay.
    """
    # Scores of all entries for a tile of vectors fit the cache; for all vectors they would not
    # fit memory (a million vectors and 256 entries are a gigabyte).
    found = torch.empty_like(codes)
    gains = targets.new_empty(len(targets))
    width = max(len(codebook) for codebook in codebooks) * (beam if len(codebooks) > 1 else 1)
    for part in tiles(len(targets), width, targets.device):
        found[part] = _search(targets[part], metric[part], codes[part], codebooks, beam)
        before = _distance(targets[part], metric[part], codes[part], codebooks)
        gains[part] = before - _distance(targets[part], metric[part], found[part], codebooks)
    # Scores and distances round differently: a choice that does not pay is dropped here.
    worse = gains <= 0
    found[worse], gains[worse] = codes[worse], 0.0
    return found, gains


def _search(
    targets: Tensor, metric: Tensor, codes: Tensor, codebooks: list[Tensor], beam: int
) -> Tensor:
    """Return the best candidate for a tile of vectors, ``(n, codebooks)``."""
    kept = codes[:, None]
    value = _decode(codes, codebooks)[:, None]
    for k, codebook in enumerate(codebooks):
        last = k + 1 == len(codebooks)
        rest = value - codebook[kept[..., k]]
        error = targets[:, None] - rest
        weights = metric[:, None].expand_as(error)
        # Σ m (e - c)² = Σ m e² - 2 (m e)·c + m·c²: one product scores all entries of a candidate.
        left = torch.cat([weights * error, weights], -1)
        right = torch.cat([-2 * codebook, codebook.square()], 1)
        scores = left @ right.T + (weights * error.square()).sum(-1, keepdim=True)
        flat = scores.flatten(1)
        # Between codebooks a beam, as a worse choice now may be redeemed by the next codebook.
        if last:
            chosen = flat.argmin(1, keepdim=True)
        else:
            chosen = flat.topk(min(beam, flat.shape[1]), 1, largest=False).indices
        origin = chosen.div(len(codebook), rounding_mode="floor")
        entries = chosen % len(codebook)
        kept = kept.gather(1, origin[..., None].expand(-1, -1, len(codebooks))).clone()
        kept[..., k] = entries
        rest = rest.gather(1, origin[..., None].expand(-1, -1, rest.shape[-1]))
        value = rest + codebook[entries]
    return kept[:, 0]


def _decode(codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    return sum(
        (book[codes[:, k]] for k, book in enumerate(codebooks[1:], 1)), codebooks[0][codes[:, 0]]
    )


def _distance(targets: Tensor, metric: Tensor, codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    return (metric * (targets - _decode(codes, codebooks)).square()).sum(1)
