"""Which few weights of a matrix are marked: a bitmap, or their places if those are smaller."""

from __future__ import annotations

import torch
from torch import Tensor

from crvq.weights.additive import index_bits
from crvq.weights.bitpack import pack_bits, packed_bytes, unpack_bits


def mask_bytes(shape: tuple[int, int], marked: int) -> int:
    """Bytes of the smaller form of a mask.

    Args:
        shape: ``(out, in)``.
        marked: weights that are marked.
    """
    return min(packed_bytes(shape[0] * shape[1], 1), _places_bytes(shape, marked))


def pack_mask(mask: Tensor) -> dict[str, Tensor]:
    """A bool mask ``(out, in)`` as a ``bitmap``, or each row's number and their ``places``.

    Places are sorted by row and cost ``⌈log2 in⌉`` bits each; they are smaller than a bitmap
    where few weights are marked.
    """
    out_features, in_features = mask.shape
    shape = out_features, in_features
    if packed_bytes(mask.numel(), 1) <= _places_bytes(shape, int(mask.sum())):
        return {"bitmap": pack_bits(mask, 1)}
    return {
        "numbers": pack_bits(mask.sum(1), index_bits(in_features + 1)),
        "places": pack_bits(mask.nonzero()[:, 1], index_bits(in_features)),
    }


def unpack_mask(tensors: dict[str, Tensor], shape: tuple[int, int], marked: int) -> Tensor:
    """The mask that `pack_mask` packed.

    Raises:
        ValueError: the tensors do not hold such a mask.
    """
    if "bitmap" in tensors:
        return unpack_bits(tensors["bitmap"], 1, shape).bool()
    numbers = unpack_bits(tensors["numbers"], index_bits(shape[1] + 1), (shape[0],))
    places = unpack_bits(tensors["places"], index_bits(shape[1]), (marked,))
    rows = torch.arange(shape[0], device=places.device).repeat_interleave(numbers)
    if len(rows) != marked or (marked and int(places.max()) >= shape[1]):
        raise ValueError(f"the mask's places are not those of {marked} of {shape} weights")
    mask = torch.zeros(shape, dtype=torch.bool, device=places.device)
    mask[rows, places] = True
    return mask


def _places_bytes(shape: tuple[int, int], marked: int) -> int:
    numbers = packed_bytes(shape[0], index_bits(shape[1] + 1))
    return numbers + packed_bytes(marked, index_bits(shape[1]))
