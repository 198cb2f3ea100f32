"""Training of additive codes: codebooks and row scales of CRVQ and AQLM."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from crvq.vq.additive_code import AdditiveCode
from crvq.vq.codebook_storage import CodebookDtype, load_codebook, round_codebook, store_codebook
from crvq.vq.scale_solve import storable_scales
from crvq.weights.additive import AdditiveWeight
from crvq.weights.trainable import EntryGradients, PartKind, Parts, TrainableWeight, trainable

_SCALES = "scales"


@trainable.register
def _(weight: AdditiveWeight, device: torch.device) -> TrainableWeight:
    return TrainableAdditive(weight, device)


class TrainableAdditive(TrainableWeight):
    """``Ŵ = s ⊙ unpermute(Σ_k C_k[B_k])`` with C and s free (arXiv 2412.09282, section 3).

    Args:
        weight: as quantized.
        device: of training.
    """

    def __init__(self, weight: AdditiveWeight, device: torch.device) -> None:
        self._weight = weight
        self._codes = [codes.to(device).int() for codes in weight.code.codes]
        order = weight.order.to(device)
        self._order, self._places = order, order.argsort()[: weight.in_features]
        self._gradients = [
            EntryGradients(codes.flatten().long(), len(parts["entries"]))
            for codes, parts in zip(self._codes, weight.codebooks, strict=True)
        ]
        self.parts = {
            f"codebooks.{k}": load_codebook(parts).to(device)
            for k, parts in enumerate(weight.codebooks)
        }
        self.parts[_SCALES] = weight.code.scales.to(device)

    def kind(self, name: str) -> PartKind:
        """Codebooks and scales."""
        return "scales" if name == _SCALES else "codebooks"

    def owner(self, name: str) -> str | None:
        """Codebooks may belong to a set; scales never do."""
        return None if name == _SCALES else self._weight.codebook_set

    def dense(self, parts: Parts) -> Tensor:
        """``(out, in)``."""
        coded = self._code(parts).decode(self._codebooks(parts)) * parts[_SCALES][:, None]
        return coded.index_select(1, self._places)

    def pullback(self, parts: Parts, gradient: Tensor) -> dict[str, Tensor]:
        """One sum over the uses of each entry; a row sum for each scale."""
        padding = len(self._order) - gradient.shape[1]
        coded = functional.pad(gradient, (0, padding)).index_select(1, self._order)
        decoded = self._code(parts).decode(self._codebooks(parts))
        found = {_SCALES: (coded * decoded).sum(1)}
        vectors = (coded * parts[_SCALES][:, None]).unflatten(1, (-1, self._weight.group_size))
        for k, codes in enumerate(self._codes):
            covered = vectors[:, : codes.shape[1]].flatten(0, 1)
            found[f"codebooks.{k}"] = self._gradients[k](covered)
        return found

    def stored(self, name: str, value: Tensor) -> Tensor:
        """Codebooks as float16 or int8, scales as float16."""
        if name != _SCALES:
            return round_codebook(value, self._dtype(int(name.rpartition(".")[2])))
        if not bool(torch.isfinite(value).all()):
            raise ValueError("a scale is not finite")
        return storable_scales(value)

    def quantized(self, parts: Parts) -> AdditiveWeight:
        """Same codes and order."""
        weight = self._weight
        device = weight.code.scales.device
        scales = self.stored(_SCALES, parts[_SCALES]).to(device)
        codebooks = [
            {
                name: part.to(device)
                for name, part in store_codebook(parts[f"codebooks.{k}"], self._dtype(k)).items()
            }
            for k in range(len(weight.codebooks))
        ]
        return replace(weight, code=AdditiveCode(weight.code.codes, scales), codebooks=codebooks)

    def _dtype(self, k: int) -> CodebookDtype:
        return "int8" if "steps" in self._weight.codebooks[k] else "float16"

    def _code(self, parts: Parts) -> AdditiveCode:
        return AdditiveCode(self._codes, parts[_SCALES])

    def _codebooks(self, parts: Parts) -> list[Tensor]:
        return [parts[f"codebooks.{k}"] for k in range(len(self._codes))]
