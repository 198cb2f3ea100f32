import pytest
import torch
from torch import nn

from crvq.finetune.free_values import QuantizedSlot
from crvq.models.blocks import find_slots
from crvq.vq.additive_code import AdditiveCode
from crvq.vq.storage import store_codebook
from crvq.weights.additive import AdditiveWeight

D = 2


def quantized(out_features, in_features, seed, dtype="float16", codebook_set=None, books=None):
    """Random codes and codebooks, two critical groups; ``books`` of a set are handed in."""
    generator = torch.Generator().manual_seed(seed)
    if books is None:
        books = [torch.randn(size, D, generator=generator) * 0.3 for size in (8, 4)]
    groups = in_features // D
    return AdditiveWeight(
        out_features=out_features,
        in_features=in_features,
        code=AdditiveCode(
            [
                torch.randint(0, 8, (out_features, groups), generator=generator),
                torch.randint(0, 4, (out_features, 2), generator=generator),
            ],
            (1 + torch.rand(out_features, generator=generator)).half().float(),
        ),
        codebooks=[store_codebook(book, dtype) for book in books],
        order=torch.randperm(in_features, generator=generator),
        reordered=in_features,
        codebook_set=codebook_set,
    )


class ToyBlock(nn.Module):
    """A norm, two linears (one with a bias) and a residual path."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6, bias=False)

    def forward(self, hidden):
        return hidden + self.down(torch.tanh(self.up(self.norm(hidden))))


@pytest.fixture
def toy():
    """A block with quantized weights in it, and its slots."""

    def build(dtype="float16", shared=False, seed=0):
        torch.manual_seed(seed)
        block = ToyBlock().requires_grad_(False)
        books = [torch.randn(size, D) * 0.3 for size in (8, 4)] if shared else None
        name = "both" if shared else None
        weights = {
            "up": quantized(10, 6, seed + 1, dtype, name, books),
            "down": quantized(6, 10, seed + 2, dtype, name, books),
        }
        slots = {slot.kind: slot for slot in find_slots(block)}
        for kind, weight in weights.items():
            slots[kind].write(weight.dequantize())
        return block, [QuantizedSlot(kind, slots[kind], weights[kind]) for kind in weights]

    return build
