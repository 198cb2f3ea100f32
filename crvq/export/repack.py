"""From a loaded model back to the tensors of its folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from crvq.errors import CheckpointError
from crvq.export.folder import stored_tensors
from crvq.export.layout import Layout
from crvq.inference import QuantizedLinear
from crvq.vq.additive_code import AdditiveCode
from crvq.weights.additive import AdditiveWeight
from crvq.weights.quantized import QuantizedWeight


def additive_weight(linear: QuantizedLinear, header: dict[str, Any]) -> AdditiveWeight:
    """Return the quantized weight that a linear was made of.

    Args:
        linear: on any device.
        header: of the weight; says what a linear does not need to know (how many positions of the
            permutation are stored, which set its codebooks belong to).
    """
    packed = linear.packed
    every = slice(0, packed.tiles)
    positions = torch.arange(packed.positions)
    books = [
        {"entries": entries.cpu()}
        if steps is None
        else {"entries": entries.cpu(), "steps": steps.cpu()}
        for entries, steps in zip(packed.codebooks, packed.steps, strict=True)
    ]
    return AdditiveWeight(
        out_features=linear.out_features,
        in_features=linear.in_features,
        code=AdditiveCode(
            [packed.unpacked(k, every).cpu() for k in range(len(packed.codes))],
            packed.scales.detach().float().cpu(),
        ),
        codebooks=books,
        order=positions if packed.order is None else packed.order.long().cpu(),
        reordered=int(header["reordered"]),
        codebook_set=header["codebook_set"],
        codebook_share=float(header["codebook_share"]),
    )


def quantized_weights(model: PreTrainedModel, layout: Layout) -> dict[str, QuantizedWeight]:
    """Return the quantized weights of a loaded model by name.

    Raises:
        CheckpointError: a layer runs dequantized, or trains in full precision.
    """
    weights: dict[str, QuantizedWeight] = {}
    for name, header in layout.linears.items():
        module = model.get_submodule(name)
        if not isinstance(module, QuantizedLinear):
            raise CheckpointError(
                f"{name} runs dequantized (format {header['format']}): copy the folder instead"
            )
        weights[name] = additive_weight(module, header)
    return weights


def repacked_state(model: PreTrainedModel, layout: Layout) -> tuple[dict[str, Tensor], Layout]:
    """Return all tensors of a loaded model as its folder holds them, and their layout."""
    return stored_tensors(model, quantized_weights(model, layout), layout.origin)
