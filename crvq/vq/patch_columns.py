"""Columns rounded to codebooks of patches: the vector quantizer inside GPTVQ."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.grouped_codebooks import PatchLayout, load_patches, store_patches
from crvq.vq.kmeans import grouped_kmeans

SCALE_BITS = 4
_LEVELS = 2**SCALE_BITS - 1
LARGEST_LOGARITHM = 16.0
"""To base 2, of any scale; larger weights are left to the codebook."""
# Blocks smaller than the largest by more than this (in powers of two) count as this small.
_RANGE = 15.0


def fit_block_scales(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return a scale near ``max |w|`` for each block (GPTVQ, arXiv 2402.15319, section 3.2).

    Args:
        weight: ``(out, columns)``.
        block: columns of a block; the last may be narrower.

    Returns:
        Codes ``(out, blocks)``, int64, and ``(2,)``: the least logarithm to base 2 and the step
        between codes, float32 that float16 holds. See `block_scales`.
    """
    padding = -weight.shape[1] % block
    padded = torch.nn.functional.pad(weight.abs(), (0, padding))
    largest = padded.view(len(weight), -1, block).amax(2)
    logs = largest.clamp_min(torch.finfo(torch.float32).tiny).log2().clamp(-24, 15)
    # A block of zeros must not have its own small scale, which would make all steps coarse.
    live = logs[largest > 0]
    least = live.min() if len(live) else logs.max()
    logs = logs.clamp_min(torch.maximum(least, logs.max() - _RANGE))
    span = torch.stack([logs.min(), (logs.max() - logs.min()) / _LEVELS]).half().float()
    step = torch.where(span[1] > 0, span[1], 1.0)
    codes = ((logs - span[0]) / step).round().long().clamp(0, _LEVELS)
    return codes, span


def block_scales(codes: Tensor, span: Tensor, block: int, columns: int) -> Tensor:
    """Return the scale of each weight, ``(out, columns)``."""
    return (span[0] + span[1] * codes).exp2().repeat_interleave(block, 1)[:, :columns]


class PatchColumns:
    """A `ColumnQuantizer` with a codebook for each patch (GPTVQ, arXiv 2402.15319, algorithm 1).

    When a strip's turn comes, its codebooks are fitted to its weights as they are then, and
    rounded to 8 bits; vectors take the entry that costs least in the metric of their columns.

    Args:
        layout: of the patches.
        cost: of an error of each column once later ones have compensated it, ``(in,)``.
        entries: of each codebook.
        iterations: of k-means.
        scale_block: columns that share a scale of 4 bits, a multiple of d; None: no scales.
    """

    def __init__(
        self,
        layout: PatchLayout,
        cost: Tensor,
        entries: int,
        iterations: int,
        scale_block: int | None = None,
    ) -> None:
        self.layout, self.width, self.span = layout, layout.width, layout.columns
        self._cost, self._iterations, self._scale_block = cost, iterations, scale_block
        shape, device = (layout.out_features, layout.in_features), cost.device
        number = layout.strips * layout.bands
        self.codes = torch.zeros(shape[0], shape[1] // self.width, dtype=torch.int64, device=device)
        self.codebooks = torch.zeros(number, entries, self.width, device=device)
        self.scales: Tensor | None = None
        """Of each weight, ``(out, in)``."""
        self.scale_codes: list[Tensor] = []
        self.scale_spans: list[Tensor] = []
        if scale_block is not None:
            self.scales = torch.ones(shape, device=device)

    def start(self, columns: slice, weight: Tensor) -> None:
        """Fit the strip's scales and codebooks."""
        bands = self.layout.bands
        strip = columns.start // self.span
        self._own = slice(strip * bands, (strip + 1) * bands)
        if self.scales is not None and self._scale_block is not None:
            codes, span = fit_block_scales(weight, self._scale_block)
            self.scale_codes.append(codes)
            self.scale_spans.append(span)
            self.scales[:, columns] = block_scales(codes, span, self._scale_block, weight.shape[1])
        self.codebooks[self._own] = self._fit_codebooks(columns, weight)

    def _fit_codebooks(self, columns: slice, weight: Tensor) -> Tensor:
        """Return the strip's codebooks as they are stored, ``(bands, entries, d)``."""
        # k-means sees W / s; an error there is multiplied by s when decoded, its cost by s².
        cost = self._cost[columns].expand_as(weight)
        if self.scales is not None:
            scales = self.scales[:, columns]
            weight, cost = weight / scales, cost * scales.square()
        fitted = grouped_kmeans(
            self._by_band(weight).flatten(1, 2),
            self._by_band(cost).flatten(1, 2),
            self.codebooks.shape[1],
            self._iterations,
        )
        # Codes are chosen from the stored entries, so that rounding errors are compensated too.
        return load_patches(*store_patches(fitted))

    def quantize(self, columns: slice, weight: Tensor, metric: Tensor) -> Tensor:
        """Return the cheapest entry for each row's d columns, and keep its index."""
        scales = None if self.scales is None else self.scales[:, columns]
        target = self._by_band(weight if scales is None else weight / scales)[:, :, 0]
        codebooks = self.codebooks[self._own]
        # (x - c) M (x - c)ᵀ without the part that is the same for all entries. M is the metric of
        # the d columns once later ones compensate, not a diagonal: their errors interact.
        norms = ((codebooks @ metric) * codebooks).sum(2)
        scores = norms[:, None] - 2 * (target @ metric) @ codebooks.mT
        chosen = scores.argmin(2)
        band = torch.arange(len(codebooks), device=chosen.device)[:, None]
        values = codebooks[band, chosen].flatten(0, 1)[: len(weight)]
        self.codes[:, columns.start // self.width] = chosen.flatten()[: len(weight)]
        return values if scales is None else values * scales

    def _by_band(self, weight: Tensor) -> Tensor:
        """``(out, columns)`` as vectors ``(bands, rows, columns / d, d)``, padded by zero rows."""
        layout = self.layout
        missing = layout.bands * layout.rows - len(weight)
        padded = torch.nn.functional.pad(weight, (0, 0, 0, missing))
        return padded.view(layout.bands, layout.rows, -1, self.width)
