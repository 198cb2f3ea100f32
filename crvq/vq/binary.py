"""Binary weights: a scale times a sign, split groups (BiLLM), and a few weights kept (PB-LLM)."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.storage import to_float16
from crvq.vq.uniform_grid import fit_grid, grid_codes, grid_values

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


CONCENTRATED, SPARSE, SALIENT, RESIDUAL = range(4)
"""Places of a block's four scales; its three centres are those of the first three."""


class SplitBinaryColumns:
    """A `ColumnQuantizer` with signs for weights (BiLLM, arXiv 2402.04291, algorithms 1 and 2).

    When a block's turn comes, some columns are chosen as salient: their weights get a second sign
    for what the first leaves over. The other weights fall into two groups by magnitude, each with
    its own scale per row.

    Args:
        shape: ``(out, in)``.
        cost: of an error of each column once later ones have compensated it, ``(in,)``.
        block: columns that share scales.
        width: columns rounded together, errors of earlier ones compensated.
        most_salient: part of a block's columns that may be salient.
        splitting: False makes one group of all weights that are not salient.
        centred: whether groups have centres as well as scales.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        cost: Tensor,
        block: int,
        width: int,
        most_salient: float,
        splitting: bool,
        centred: bool,
    ) -> None:
        out_features, in_features = shape
        self.width, self.span = width, block
        self._cost, self._most = cost, most_salient
        self._splitting, self._centred = splitting, centred
        blocks, device = -(-in_features // block), cost.device
        self.salient = torch.zeros(in_features, dtype=torch.bool, device=device)
        self.signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.sparse = torch.zeros(shape, dtype=torch.bool, device=device)
        self.second_signs = torch.zeros(shape, dtype=torch.bool, device=device)
        self.scales = torch.zeros(out_features, blocks, 4, device=device)
        self.centres = torch.zeros(out_features, blocks, 3, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Choose the block's salient columns and groups, and fit scales."""
        self._block = columns.start // self.span
        # Optimal brain surgeon's saliency, w² / [H⁻¹]_jj, of the weights as they are now.
        saliency = (weight.square() * self._cost[columns]).sum(0)
        most = most_salient_columns(weight.shape[1], self._most)
        salient = salient_columns(weight, saliency, most)
        sparse = torch.zeros_like(weight, dtype=torch.bool)
        if self._splitting and not bool(salient.all()):
            sparse = (weight.abs() >= break_point(weight[:, ~salient])) & ~salient
        self.salient[columns], self.sparse[:, columns] = salient, sparse
        self._fit(CONCENTRATED, weight, ~sparse & ~salient)
        self._fit(SPARSE, weight, sparse)
        self._fit(SALIENT, weight, salient)
        # The second sign of salient weights codes what the first leaves over.
        self._first_centres = self.centres[:, self._block, SALIENT].clone()
        scale = self.scales[:, self._block, SALIENT, None]
        residual = weight - self._first_centres[:, None]
        residual = residual - scale * signed(residual >= 0)
        self.scales[:, self._block, RESIDUAL], centres = binary_scales(
            residual, salient, self._centred
        )
        # Both centres of salient weights are stored as their sum.
        self.centres[:, self._block, SALIENT] = to_float16(self._first_centres + centres)

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Return the nearest of a group's values; for salient weights, sign by sign."""
        salient, sparse = self.salient[columns], self.sparse[:, columns]
        scales, centres = self.scales[:, self._block], self.centres[:, self._block]
        scale = torch.where(sparse, scales[:, SPARSE, None], scales[:, CONCENTRATED, None])
        scale = torch.where(salient, scales[:, SALIENT, None], scale)
        centre = torch.where(sparse, centres[:, SPARSE, None], centres[:, CONCENTRATED, None])
        centre = torch.where(salient, self._first_centres[:, None], centre)
        # The first sign is taken about the first centre, but decoding adds the stored sum of both.
        signs = weight >= centre
        centre = torch.where(salient, centres[:, SALIENT, None], centre)
        values = centre + scale * signed(signs)
        second = (weight >= values) & salient
        values += salient * scales[:, RESIDUAL, None] * signed(second)
        self.signs[:, columns], self.second_signs[:, columns] = signs, second
        return values

    def _fit(self, place: int, weight: Tensor, mask: Tensor) -> None:
        fitted = binary_scales(weight, mask, self._centred)
        self.scales[:, self._block, place], self.centres[:, self._block, place] = fitted


def most_salient_columns(columns: int, part: float) -> int:
    """Return how many columns of a block may be salient: at least one, unless none are wanted."""
    return max(1, int(part * columns)) if part > 0 else 0


class PartialBinaryColumns:
    """A `ColumnQuantizer` that binarizes all but salient weights (PB-LLM, arXiv 2310.00034).

    Args:
        weight: ``(out, in)``, as it is before any column is quantized.
        cost: of an error of each column, ``(in,)``; salient weights have the largest ``cost w²``.
        salient_ratio: part of a group's weights that are salient.
        salient_bits: of their codes, on one asymmetric grid a row.
        group_size: columns that share one scale per row, and a number of salient weights.
    """

    width = 1

    def __init__(
        self, weight: Tensor, cost: Tensor, salient_ratio: float, salient_bits: int, group_size: int
    ) -> None:
        self.span = group_size
        self._cost, self._ratio, self._bits = cost, salient_ratio, salient_bits
        self.steps, self.zeros = fit_grid(weight, salient_bits)
        groups = -(-weight.shape[1] // group_size)
        self.salient = torch.zeros_like(weight, dtype=torch.bool)
        self.signs = torch.zeros_like(self.salient)
        self.codes = torch.zeros_like(weight, dtype=torch.int64)
        self.scales = torch.zeros(len(weight), groups, device=weight.device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Choose the group's salient weights, and fit the scales of the others."""
        self._group = columns.start // self.span
        saliency = (weight.square() * self._cost[columns]).flatten()
        number = salient_number(weight.numel(), self._ratio)
        chosen = torch.zeros_like(saliency, dtype=torch.bool)
        chosen[saliency.topk(number).indices] = True
        self.salient[:, columns] = chosen.view_as(weight)
        others = ~self.salient[:, columns]
        self.scales[:, self._group] = binary_scales(weight, others, centred=False)[0]

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Salient weights to the row's grid, the others to plus or minus the row's scale."""
        salient, signs = self.salient[:, columns], weight >= 0
        steps, zeros = self.steps[:, None], self.zeros[:, None]
        codes = grid_codes(weight, steps, zeros, self._bits)
        self.signs[:, columns], self.codes[:, columns] = signs & ~salient, codes * salient
        binary = signed(signs) * self.scales[:, self._group, None]
        return torch.where(salient, grid_values(codes, steps, zeros), binary)


def salient_number(weights: int, ratio: float) -> int:
    """Salient weights of a group of so many."""
    return round(ratio * weights)
