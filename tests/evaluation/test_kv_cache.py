"""A quantized key-value cache: its rounding number by number, and attention that reads it."""

import math

import pytest
import torch
from scipy.linalg import hadamard

from crvq.evaluation.kv_cache import (
    cache_bits,
    cache_projections,
    group_size,
    quantized_cache,
    through_cache,
)
from crvq.evaluation.perplexity import perplexity
from tests.architectures import build, tokens


def by_hand(keys, reorder):
    """Each token's numbers after a cache in groups, in float64, one at a time."""
    count, channels = keys.shape
    group = group_size(channels)
    groups = channels // group
    order = list(range(channels))
    if reorder:
        size = keys[:64].abs().mean(0)
        ranked = sorted(order, key=lambda one: (-float(size[one]), one))
        order = [ranked[one * groups + mine] for mine in range(groups) for one in range(group)]
    matrix = torch.tensor(hadamard(group), dtype=torch.float64) / math.sqrt(group)
    result = keys.double().clone()
    for token in range(4, count):
        for first in range(0, channels, group):
            places = order[first : first + group]
            rotated = matrix @ keys[token, places].double()
            low = float(rotated.min().half())
            step = float(((rotated.max() - low) / 3).half())
            levels = [min(3, max(0, round((float(one) - low) / step))) for one in rotated]
            restored = matrix.T @ torch.tensor([low + one * step for one in levels]).double()
            result[token, places] = restored
    return result


@pytest.mark.parametrize("reorder", [True, False])
@pytest.mark.parametrize("channels", [16, 24, 192])
def test_numbers_come_back_as_by_hand(channels, reorder):
    keys = torch.randn(9, channels, generator=torch.Generator().manual_seed(channels))
    keys[:, 5] *= 20
    found = through_cache(keys, reorder)
    assert torch.allclose(found.double(), by_hand(keys, reorder), atol=2e-3)
    assert torch.equal(found[:4], keys[:4])
    assert torch.equal(through_cache(keys.repeat(3, 1, 1), reorder)[1], found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(through_cache(keys, reorder), found)


def test_dealing_channels_loses_less_where_large_ones_are_neighbours():
    keys = torch.randn(200, 256, generator=torch.Generator().manual_seed(0))
    keys[:, 8:72] *= 10
    errors = [float((through_cache(keys, one) - keys).square().sum()) for one in (True, False)]
    assert errors[0] < errors[1]


def test_bits_are_codes_steps_minima_and_kept_tokens():
    assert cache_bits(192, 2048) == (4 * 16 + 2044 * (2 + 32 / 64)) / 2048
    assert cache_bits(1024, 10) == (4 * 16 + 6 * 2.25) / 10


def test_attention_reads_what_the_cache_gives_back():
    """The weights of a layer whose keys and values are rounded, computed from its definition."""
    model, windows = build("Llama"), tokens(2, 24, 1)
    attention = model.model.layers[0].self_attn
    inputs = {}
    hooks = [
        attention.register_forward_pre_hook(
            lambda _m, _a, named: inputs.update(named), with_kwargs=True
        ),
        attention.register_forward_hook(lambda _m, _a, output: inputs.update(output=output[0])),
    ]
    with torch.no_grad(), quantized_cache(model):
        cached = model(windows).logits
    for hook in hooks:
        hook.remove()
    x, (cos, sin) = inputs["hidden_states"], inputs["position_embeddings"]
    width = attention.head_dim

    def heads(values):
        return values.unflatten(-1, (-1, width)).transpose(1, 2)

    def turned(values):
        half = width // 2
        other = torch.cat([-values[..., half:], values[..., :half]], -1)
        return values * cos[:, None] + other * sin[:, None]

    with torch.no_grad():
        q = turned(heads(attention.q_proj(x)))
        k = turned(heads(through_cache(attention.k_proj(x), reorder=True)))
        v = heads(through_cache(attention.v_proj(x), reorder=False))
        shared = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        scores = q @ k.mT / width**0.5
        ahead = torch.ones(24, 24, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v
        expected = attention.o_proj(mixed.transpose(1, 2).flatten(2))
        assert torch.allclose(inputs["output"], expected, atol=1e-5)
        assert not torch.allclose(model(windows).logits, cached)


def test_hooks_are_gone_afterwards():
    model, windows = build("Llama"), tokens(2, 16, 1)
    before = perplexity(model, windows, torch.device("cpu")).perplexity
    with quantized_cache(model):
        assert perplexity(model, windows, torch.device("cpu")).perplexity != before
    assert perplexity(model, windows, torch.device("cpu")).perplexity == before


def test_fused_projections_are_not_found():
    assert cache_projections(build("Llama"))
    assert not cache_projections(build("GPT2"))
