"""Weights as a scale times a sign: closed forms, and where to split a row's magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.storage_range import to_float16

# Break points that are tried: percentiles of the magnitudes (the authors' 81).
_PERCENTILES = (0.1, 0.9, 81)


def binary_scales(weight: Tensor, mask: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """Return α and μ of each row for ``w ≈ μ + α sign(w - μ)`` on some of its weights.

    ``α = mean |w - μ|`` is the least-squares optimum for these signs (XNOR-Net; PB-LLM, arXiv
    2310.00034, section 3.4; BiLLM, arXiv 2402.04291, section 3.1); μ is the weights' mean.

    Args:
        weight: ``(out, columns)``.
        mask: the weights that count, of the same shape or ``(columns,)``, bool.
        centred: False leaves ``μ = 0``.

    Returns:
        Scales and centres, ``(out,)`` each, float32 that float16 holds; 0 where no weight counts.
    """
    kept = mask.to(weight.dtype).expand_as(weight)
    count = kept.sum(1).clamp_min(1)
    centres = torch.zeros_like(count)
    if centred:
        # Rounded to storage first, so that α is fitted to the centre that will be decoded.
        centres = to_float16((weight * kept).sum(1) / count)
    scales = ((weight - centres[:, None]).abs() * kept).sum(1) / count
    return to_float16(scales), centres


def signed(signs: Tensor) -> Tensor:
    """Return ``+1.0`` for True and ``-1.0`` for False."""
    return signs.float().mul_(2).sub_(1)


def salient_columns(weight: Tensor, saliency: Tensor, most: int) -> Tensor:
    """Choose salient columns: the first by saliency, as many as give the least error.

    Of all numbers up to ``most`` the one with the least squared error when salient columns and
    the others have one scale per row (BiLLM, arXiv 2402.04291, section 3.2, equation 5).

    Args:
        weight: ``(out, columns)``.
        saliency: of each column, ``(columns,)``.
        most: salient columns at most; 0 for none.

    Returns:
        Bool, ``(columns,)``.
    """
    columns = weight.shape[1]
    salient = torch.zeros(columns, dtype=torch.bool, device=weight.device)
    most = min(most, columns)
    if most == 0:
        return salient
    order = saliency.argsort(descending=True, stable=True)
    # A group of n weights with scale mean |w| has the error Σ w² - (Σ |w|)² / n. Cumulative sums
    # over the ranked columns give it for every number of salient columns at once; in float64, as
    # differences of large sums are compared.
    sums = weight[:, order].abs().cumsum(1, dtype=torch.float64)
    number = torch.arange(1, columns + 1, device=weight.device)
    rest = (sums[:, -1:] - sums).square() / (columns - number).clamp_min(1)
    # Σ w² less this is the error, so the largest gain is the least error.
    gain = (sums.square() / number + rest).sum(0)[:most]
    salient[order[: int(gain.argmax()) + 1]] = True
    return salient


def break_point(weight: Tensor) -> float:
    """Return the magnitude at which to split weights into a concentrated and a sparse group.

    Of 81 percentiles of the magnitudes, 10 % to 90 %, the one with the least squared error when
    each row has a scale for each group (BiLLM, arXiv 2402.04291, section 3.3, "bell-shaped
    distribution splitting"). A weight as large as the break point belongs to the sparse group.

    Args:
        weight: ``(out, columns)``, at least one weight; one break point serves all rows.
    """
    magnitudes = weight.abs().sort(1).values
    every = magnitudes.flatten().sort().values
    places = torch.linspace(*_PERCENTILES, dtype=torch.float64, device=weight.device)
    candidates = every[(places * (len(every) - 1)).round().long()]
    # Number of a row's weights below each candidate, and their sum: the same closed form as in
    # `salient_columns`, for both groups of every row and all candidates.
    below = torch.searchsorted(magnitudes, candidates.expand(len(weight), -1).contiguous())
    sums = torch.nn.functional.pad(magnitudes.cumsum(1, dtype=torch.float64), (1, 0))
    small = sums.gather(1, below)
    large = sums[:, -1:] - small
    columns = weight.shape[1]
    gain = small.square() / below.clamp_min(1) + large.square() / (columns - below).clamp_min(1)
    return float(candidates[gain.sum(0).argmax()])
