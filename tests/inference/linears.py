"""Random quantized weights with every part that a linear can have."""

import torch

from crvq.inference.packed_linear import PackedLinear, pack_linear
from crvq.vq.additive_code import AdditiveCode
from crvq.vq.storage import store_codebook
from crvq.weights.additive import AdditiveWeight


def random_weight(
    out=40, in_features=64, d=8, bits=(8,), coverage=None, stored="float16", shuffled=True, seed=0
):
    """An `AdditiveWeight`; ``coverage`` counts groups of the codebooks after the first."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-in_features // d)
    covered = [groups, *(coverage or [groups] * (len(bits) - 1))]
    entries = [max(2, (1 << width) - 3) if width > 2 else 1 << width for width in bits]
    codes = [
        torch.randint(0, count, (out, size), generator=generator)
        for count, size in zip(entries, covered, strict=True)
    ]
    books = [store_codebook(torch.randn(n, d, generator=generator), stored) for n in entries]
    scales = (torch.rand(out, generator=generator) + 0.5).half().float()
    positions = groups * d
    order = torch.arange(positions)
    if shuffled:
        # Drawn apart: linears with equal inputs get equal permutations, whatever their outputs.
        shuffle = torch.Generator().manual_seed(seed + 1)
        order[:in_features] = torch.randperm(in_features, generator=shuffle)
    return AdditiveWeight(
        out, in_features, AdditiveCode(codes, scales), books, order, positions if shuffled else 0
    )


def random_linear(bias=False, **options) -> tuple[PackedLinear, torch.Tensor, torch.Tensor | None]:
    """Packed linear, its dense weight in float32, and its bias."""
    weight = random_weight(**options)
    offset = None
    if bias:
        offset = torch.randn(weight.out_features, generator=torch.Generator().manual_seed(7))
    return pack_linear(weight, offset), weight.dequantize(), offset


def relative_error(found, expected):
    """Norm of the difference over the norm."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())
