"""Training of GPTVQ's weights: the codebook of each patch; block scales stay as they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from crvq.vq.grouped_codebooks import decode_patches, load_patches, store_patches
from crvq.weights.patch_vq import PatchWeight
from crvq.weights.trainable import EntryGradients, PartKind, Parts, TrainableWeight, trainable

_CODEBOOKS = "codebooks"


@trainable.register
def _(weight: PatchWeight, device: torch.device) -> TrainableWeight:
    return TrainablePatches(weight, device)


class TrainablePatches(TrainableWeight):
    """``Ŵ = s ⊙ C_patch[codes]`` with C free (arXiv 2402.15319, section 3.3).

    Args:
        weight: as quantized.
        device: of training.
    """

    def __init__(self, weight: PatchWeight, device: torch.device) -> None:
        self._weight = weight
        self._codes, self._index = weight.codes.to(device), weight.layout.codebook_index(device)
        number, entries, _ = weight.entries.shape
        slots = (self._index * entries + self._codes).flatten()
        self._gradients = EntryGradients(slots, number * entries)
        self._scales = None if weight.scale_codes is None else weight.scales().to(device)
        self.parts = {_CODEBOOKS: load_patches(weight.entries, weight.steps).to(device)}

    def kind(self, name: str) -> PartKind:
        """Codebooks only."""
        return "codebooks"

    def dense(self, parts: Parts) -> Tensor:
        """``(out, in)``."""
        decoded = decode_patches(parts[_CODEBOOKS], self._codes, self._index)
        if self._scales is not None:
            decoded = decoded * self._scales
        return decoded[:, : self._weight.in_features].contiguous()

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """One sum over the uses of each entry of each patch."""
        codebooks = parts[_CODEBOOKS]
        padding = self._weight.layout.in_features - gradient.shape[1]
        gradient = functional.pad(gradient, (0, padding))
        if self._scales is not None:
            gradient = gradient * self._scales
        vectors = gradient.reshape(-1, codebooks.shape[2])
        return {_CODEBOOKS: self._gradients(vectors).view_as(codebooks)}

    def stored(self, name: str, value: Tensor) -> Tensor:
        """8-bit entries, a float16 step a codebook."""
        return load_patches(*self._store(value))

    def quantized(self, parts: Parts) -> PatchWeight:
        """Same codes and scales."""
        entries, steps = self._store(parts[_CODEBOOKS])
        device = self._weight.entries.device
        return replace(self._weight, entries=entries.to(device), steps=steps.to(device))

    @staticmethod
    def _store(value: Tensor) -> tuple[Tensor, Tensor]:
        if not bool(torch.isfinite(value).all()):
            raise ValueError("a codebook entry is not finite")
        return store_patches(value)
