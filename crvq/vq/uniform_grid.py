"""Uniform grids: a step and a zero point for each row of a group of columns."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.storage import to_positive_float16


def fit_grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the asymmetric grid from each row's least to its largest value, zero included.

    (GPTQ, arXiv 2210.17323, section 4: asymmetric, min-max, one grid per row.)

    Args:
        weight: ``(out, columns)``.
        bits: of a code.

    Returns:
        Steps ``(out,)``, float16 values in float32, and zero points ``(out,)``, int64, from 0 to
        ``2**bits - 1``. A code q stands for ``(q - zero point) * step``.
    """
    # Zero lies on the grid: a pruned or dead weight must stay exactly zero.
    lowest, highest = weight.amin(1).clamp_max(0), weight.amax(1).clamp_min(0)
    levels = 2**bits - 1
    steps = storable_steps((highest - lowest) / levels)
    # For the stored step, which differs from the fitted one by float16's rounding.
    zeros = (-lowest / steps).round().clamp(0, levels).long()
    return steps, zeros


def storable_steps(steps: Tensor) -> Tensor:
    """Return steps as float16 holds them, positive and finite, in float32.

    Raises:
        StorageRangeError: a step is NaN or infinite.
    """
    return to_positive_float16(steps)


def grid_codes(weight: Tensor, steps: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The nearest code, ``(out, columns)`` int64, for steps and zero points that broadcast."""
    return ((weight / steps).round().long() + zeros).clamp_(0, 2**bits - 1)


def grid_values(codes: Tensor, steps: Tensor, zeros: Tensor) -> Tensor:
    """Return what codes stand for, float32."""
    return (codes - zeros).float() * steps


class GridColumns:
    """A `ColumnQuantizer` onto uniform grids, one for each row and each group of columns.

    Args:
        shape: ``(out, in)``.
        bits: of a code.
        group_size: columns that share grids.
        device: of the weight.
    """

    width = 1

    def __init__(
        self, shape: tuple[int, int], bits: int, group_size: int, device: torch.device
    ) -> None:
        out_features, in_features = shape
        groups = -(-in_features // group_size)
        self.bits, self.span = bits, group_size
        self.codes = torch.zeros(shape, dtype=torch.int64, device=device)
        self.steps = torch.zeros(out_features, groups, device=device)
        self.zeros = torch.zeros(out_features, groups, dtype=torch.int64, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the group's grids."""
        self._group = columns.start // self.span
        self.steps[:, self._group], self.zeros[:, self._group] = fit_grid(weight, self.bits)

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Round each value to its row's grid."""
        steps, zeros = self.steps[:, self._group, None], self.zeros[:, self._group, None]
        self.codes[:, columns] = grid_codes(weight, steps, zeros, self.bits)
        return grid_values(self.codes[:, columns], steps, zeros)
