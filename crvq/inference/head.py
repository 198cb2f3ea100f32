"""The output embedding in 16 bits: one token's logits read half the memory of float32 weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crvq.inference import native


class Head16(nn.Linear):
    """A linear layer whose products with one token are taken from a 16-bit copy of its weight.

    The copy holds the same numbers: a model on disk has 16 bits, and float32 is what it computes
    in. Products with several tokens, with gradients, or with a weight that was changed since are
    those of `nn.Linear`; of one token only the order of additions differs.

    Args:
        head: whose weight (which may be tied to the input embedding) and bias are taken over.
        copy: of its weight, bfloat16 or float16.
    """

    def __init__(self, head: nn.Linear, copy: Tensor) -> None:
        super().__init__(head.in_features, head.out_features, head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias
        # Neither parameter nor buffer: it is saved nowhere and must not be cast.
        self._copied = (copy, head.weight.data_ptr(), head.weight._version)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``(..., in)``."""
        copy, address, version = self._copied
        weight = self.weight
        if (
            x.numel() == self.in_features
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            and (weight.data_ptr(), weight._version) == (address, version)
        ):
            y = native.multiply_dense16(copy, x.reshape(-1))
            y = y if self.bias is None else y.add_(self.bias)
            return y.view(*x.shape[:-1], -1)
        return super().forward(x)


def read_head_in_16_bits(model: PreTrainedModel) -> bool:
    """Give a float32 model on a CPU a `Head16`, if 16 bits hold its output embedding exactly.

    Returns:
        Whether it has one now. Memory grows by half of what the output embedding takes.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or hasattr(head, "_hf_hook") or native.library() is None:
        return False
    weight = cast(Tensor, head.weight).detach()
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    for dtype in (torch.bfloat16, torch.float16):
        copy = weight.to(dtype)
        if torch.equal(copy.float(), weight):
            model.set_output_embeddings(Head16(head, copy.contiguous()))
            return True
    return False
