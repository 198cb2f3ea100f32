"""Ternary weights: rows as a centre plus scaled trits, and columns rounded to trits under H."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from crvq.vq.storage import to_float16

# Ternary weight networks' threshold, in units of the mean magnitude: where the fit starts.
_START_THRESHOLD = 0.75
# The condition number from which the scales of two planes are regularized, and by how much.
_LARGEST_CONDITION = 1e6
_RIDGE = 1e-4


def nearest_trits(weight: Tensor, centres: Tensor, scales: Tensor) -> Tensor:
    """Return the trits (int8) of ``w ≈ μ + α t`` nearest to each weight.

    Args:
        weight: ``(out, columns)``.
        centres: μ, ``(out,)``.
        scales: α, ``(out,)``; zero gives zero trits. A negative one swaps the signs of trits.
    """
    # Division by infinity gives zero trits, where division by zero would give NaN.
    safe = torch.where(scales == 0, torch.inf, scales)
    return ((weight - centres[:, None]) / safe[:, None]).round().clamp(-1, 1).to(torch.int8)


def fit_asymmetric(weight: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit ``w ≈ μ + α t`` row by row: least squares and nearest trits in turn.

    (PT2-LLM, arXiv 2510.03267, section 3.2, "iterative ternary fitting".) The start is the row's
    mean and the trits of magnitudes above 0.75 of their mean.

    Returns:
        Centres and scales ``(out,)``, and trits ``(out, columns)`` int8.
    """
    centres = weight.mean(1)
    left = weight - centres[:, None]
    threshold = _START_THRESHOLD * left.abs().mean(1, keepdim=True)
    trits = (torch.sign(left) * (left.abs() > threshold)).to(torch.int8)
    centres, scales = plain_fit(weight, trits)
    for _ in range(iterations):
        # Nearest trits are the best for this grid, and the fit the best for these trits.
        found = nearest_trits(weight, centres, scales)
        if torch.equal(found, trits):
            break
        trits = found
        centres, scales = plain_fit(weight, trits)
    return centres, scales, trits


def plain_fit(weight: Tensor, trits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (μ, α) of each row with the least ``‖w - μ - α t‖²``, by regression of w on t."""
    t = trits.to(weight.dtype)
    mean_w, mean_t = weight.mean(1), t.mean(1)
    spread = t - mean_t[:, None]
    variance = spread.square().sum(1)
    slope = ((weight - mean_w[:, None]) * spread).sum(1)
    # Equal trits throughout: the centre alone is the fit.
    scales = torch.where(variance > 0, slope / variance.clamp_min(1e-30), 0.0)
    return mean_w - scales * mean_t, scales


def aligned_fit(weight: Tensor, trits: Tensor, second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (μ, α) of each row with the least ``e H eᵀ``, ``e = w - μ 1 - α t``.

    (PT2-LLM, section 3.3, "activation-aware grid alignment".) Normal equations of the columns
    ``[1, t]`` in float64.

    Args:
        weight: ``(out, columns)``.
        trits: int8, the same shape.
        second_moment: H of these columns.
    """
    # In float64: the determinant is a difference of products that nearly cancel.
    h, w, t = second_moment.double(), weight.double(), trits.double()
    ones = h.sum(1)  # H 1
    across = t @ h
    aa, ab, bb = ones.sum(), across.sum(1), (across * t).sum(1)
    ya, yb = w @ ones, (across * w).sum(1)
    determinant = aa * bb - ab.square()
    # A row whose trits are all alike (or seen so by H) keeps its centre only.
    alike = determinant <= 1e-12 * aa * bb
    scales = torch.where(alike, 0.0, (aa * yb - ab * ya) / torch.where(alike, 1.0, determinant))
    centres = (ya - scales * ab) / aa.clamp_min(torch.finfo(torch.float64).tiny)
    return centres.to(weight.dtype), scales.to(weight.dtype)


def fit_planes(
    weight: Tensor, planes: int, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Fit ``w ≈ Σ_k α_k t_k`` row by row: ridge least squares and exhaustive trits in turn.

    (PTQTP, arXiv 2509.16989, section 3.) Trits start as signs of what earlier planes leave.

    Args:
        weight: ``(out, columns)``.
        planes: k.
        iterations: at most.
        tolerance: stops when no row's scales change by more than this part.

    Returns:
        Scales ``(planes, out)``, float32 that float16 holds, and trits ``(planes, out, columns)``.
    """
    left, trits = weight, torch.empty(planes, *weight.shape, dtype=torch.int8, device=weight.device)
    for plane in range(planes):
        trits[plane] = torch.where(left >= 0, 1, -1)
        left = left - trits[plane] * left.abs().mean(1, keepdim=True)
    scales = ridge_scales(weight, trits)
    for _ in range(iterations):
        trits = best_trits(weight, scales)
        found = ridge_scales(weight, trits)
        change, size = (found - scales).norm(dim=0), scales.norm(dim=0)
        scales = found
        if bool((change <= tolerance * size).all()):
            break
    # Trits are chosen once more, for the scales that are stored.
    scales = to_float16(scales, "a scale")
    return scales, best_trits(weight, scales)


def ridge_scales(weight: Tensor, trits: Tensor) -> Tensor:
    """Return least-squares scales ``(planes, out)`` for fixed trits, regularized if need be.

    Planes that are equal (or opposite) in a row make the normal equations singular; where their
    condition number exceeds 1e6, a ridge of 1e-4 of their mean diagonal is added.
    """
    t = trits.double()
    normal = torch.einsum("kro,lro->rkl", t, t)
    target = torch.einsum("kro,ro->rk", t, weight.double())
    values = torch.linalg.eigvalsh(normal)
    ill = values[:, 0] * _LARGEST_CONDITION <= values[:, -1]
    size = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1.0)
    ridge = torch.where(ill, _RIDGE * size, 0.0)
    eye = torch.eye(len(trits), dtype=torch.float64, device=weight.device)
    found = torch.linalg.solve(normal + ridge[:, None, None] * eye, target)
    return found.T.to(weight.dtype)


def best_trits(weight: Tensor, scales: Tensor) -> Tensor:
    """Return the best of all ``3^planes`` choices for each weight, ``(planes, out, columns)``.

    Choices that are equally good (a scale of zero) go to the one of fewest nonzero trits.
    """
    planes = len(scales)
    choices = sorted(itertools.product((0, 1, -1), repeat=planes), key=lambda c: sum(map(abs, c)))
    least = torch.full_like(weight, torch.inf)
    best = torch.zeros(planes, *weight.shape, dtype=torch.int8, device=weight.device)
    for choice in choices:
        signs = torch.tensor(choice, dtype=weight.dtype, device=weight.device)
        error = (weight - (signs @ scales)[:, None]).abs()
        closer = error < least
        least = torch.where(closer, error, least)
        best = torch.where(closer, signs.to(torch.int8)[:, None, None], best)
    return best


class AsymmetricTernaryColumns:
    """A `ColumnQuantizer` to ``μ + α t`` (PT2-LLM, arXiv 2510.03267).

    When a block's turn comes its centres, scales and trits are fitted to the weights as they are
    then, and centres and scales aligned to H. Columns that are rounded before the block's last
    take the nearest trits of that grid; a whole block keeps the fitted trits.

    Args:
        second_moment: H in the order of columns.
        out_features: rows.
        block: columns that share a centre and a scale.
        width: columns rounded together.
        iterations: of the fit.
        aligned: whether centres and scales are aligned to H.
    """

    def __init__(
        self,
        second_moment: Tensor,
        out_features: int,
        block: int,
        width: int,
        iterations: int,
        *,
        aligned: bool,
    ) -> None:
        self.width, self.span = width, block
        self._moment, self._iterations, self._aligned = second_moment, iterations, aligned
        columns, device = len(second_moment), second_moment.device
        groups = -(-columns // block)
        self.trits = torch.zeros(1, out_features, columns, dtype=torch.int8, device=device)
        self.scales = torch.zeros(1, out_features, groups, device=device)
        self.centres = torch.zeros(out_features, groups, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the block's centres, scales and trits."""
        self._group = columns.start // self.span
        centres, scales, trits = fit_asymmetric(weight, self._iterations)
        if self._aligned:
            centres, scales = aligned_fit(weight, trits, self._moment[columns, columns])
        self.trits[0, :, columns] = trits
        self.scales[0, :, self._group] = to_float16(scales, "a scale")
        self.centres[:, self._group] = to_float16(centres, "a centre")

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Round to the block's grid; a whole block keeps its trits."""
        scales, centres = self.scales[0, :, self._group], self.centres[:, self._group]
        # Narrower than the block, columns have moved since the fit to answer earlier errors.
        if self.width < self.span:
            self.trits[0, :, columns] = nearest_trits(weight, centres, scales)
        return centres[:, None] + scales[:, None] * self.trits[0, :, columns]


class TritPlaneColumns:
    """A `ColumnQuantizer` to ``Σ_k α_k t_k`` (PTQTP, arXiv 2509.16989).

    Args:
        shape: ``(out, in)``.
        planes: k.
        group_size: columns that share scales.
        iterations: of a group's fit, at most.
        tolerance: of a group's fit.
        device: of the weight.
    """

    width = 1

    def __init__(
        self,
        shape: tuple[int, int],
        planes: int,
        group_size: int,
        iterations: int,
        tolerance: float,
        device: torch.device,
    ) -> None:
        self.span = group_size
        self._planes, self._iterations, self._tolerance = planes, iterations, tolerance
        groups = -(-shape[1] // group_size)
        self.trits = torch.zeros(planes, *shape, dtype=torch.int8, device=device)
        self.scales = torch.zeros(planes, shape[0], groups, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the group's scales."""
        self._group = columns.start // self.span
        fitted, _ = fit_planes(weight, self._planes, self._iterations, self._tolerance)
        self.scales[:, :, self._group] = fitted

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Choose the best trits of all planes together."""
        scales = self.scales[:, :, self._group]
        trits = best_trits(weight, scales)
        self.trits[:, :, columns] = trits
        return (trits.to(weight.dtype) * scales[:, :, None]).sum(0)


def similar_columns(weight: Tensor, importance: Tensor, block: int) -> Tensor:
    """Return an order in which blocks are made of similar columns.

    (PT2-LLM, section 3.4, "structural similarity-based reordering"; the authors' code is not
    published, and the choice of references is ours.) The most important column that is left is a
    block's reference, and the columns of the largest cosine with it are the rest of the block.

    Args:
        weight: ``(out, in)``.
        importance: of each column, ``(in,)``.
        block: columns of a block.

    Returns:
        ``(in,)``: the column at each place.
    """
    unit = weight / weight.norm(dim=0).clamp_min(1e-30)
    left = importance.argsort(descending=True, stable=True)
    order = []
    while len(left):
        cosine = unit[:, left].T @ unit[:, left[0]]
        cosine[0] = torch.inf
        ranked = cosine.argsort(descending=True, stable=True)
        order.append(left[ranked[:block]])
        # What is left stays in order of importance.
        left = left[ranked[block:].sort().values]
    return torch.cat(order)
