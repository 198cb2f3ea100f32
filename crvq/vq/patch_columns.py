"""Columns rounded to codebooks of patches: the vector quantizer inside GPTVQ."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.vq.block_scales import block_scales, fit_block_scales
from crvq.vq.grouped_codebooks import PatchLayout, load_patches, store_patches
from crvq.vq.grouped_kmeans import grouped_kmeans


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
        fixed: codebooks ``(strips * bands, entries, d)`` to use instead of fitting them.
    """

    def __init__(
        self,
        layout: PatchLayout,
        cost: Tensor,
        entries: int,
        iterations: int,
        scale_block: int | None = None,
        fixed: Tensor | None = None,
    ) -> None:
        self.layout, self.width, self.span = layout, layout.width, layout.columns
        self._cost, self._iterations, self._scale_block = cost, iterations, scale_block
        self._fixed = fixed
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
        if self._fixed is not None:
            self.codebooks[self._own] = self._fixed[self._own]
            return
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
        self.codebooks[self._own] = load_patches(*store_patches(fitted))

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
