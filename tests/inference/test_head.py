"""The 16-bit copy of the output embedding against float64, and when it must not be used."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from crvq.inference import native
from crvq.inference.head import Head16, read_head_in_16_bits

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")


def head(out=37, in_features=83, dtype=torch.bfloat16, bias=False, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(in_features, out, bias).requires_grad_(False)
    stored = linear.weight.to(dtype)
    linear.weight.copy_(stored.float())
    return linear, Head16(linear, stored)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_features", [1, 16, 31, 32, 83, 576])
@pytest.mark.parametrize("bias", [False, True])
def test_one_token_is_multiplied_exactly(dtype, in_features, bias):
    linear, own = head(in_features=in_features, dtype=dtype, bias=bias)
    if dtype == torch.float16:  # subnormal numbers, signs and zeros
        own.weight[0, 0] = 2.0**-24
        own.weight[1, 0] = -0.0
        own = Head16(linear, own.weight.half())
    x = torch.randn(1, 1, in_features)
    with torch.no_grad():
        found = own(x)
    expected = x.double() @ linear.weight.double().T
    expected = expected + linear.bias.double() if bias else expected
    assert found.shape == (1, 1, 37)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.fixture
def counted(monkeypatch):
    calls = []
    kernel = native.multiply_dense16
    monkeypatch.setattr(native, "multiply_dense16", lambda *a: calls.append(1) or kernel(*a))
    return calls


def test_the_copy_is_left_alone_where_it_would_be_wrong(counted):
    linear, own = head()
    x = torch.randn(1, 83)
    with torch.no_grad():
        own(x)
        assert len(counted) == 1
        own(torch.randn(2, 83))
        own(x.double().float().to(torch.float32).expand(1, 1, 83))
        assert len(counted) == 2
        linear.weight.mul_(2)
        assert torch.equal(own(x), linear(x))
    assert len(counted) == 2
    linear, own = head()
    linear.weight.requires_grad_(True)
    own(x).sum().backward()
    assert len(counted) == 2
    assert linear.weight.grad is not None


def test_only_weights_that_16_bits_hold_are_copied(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    assert not read_head_in_16_bits(model)  # random float32 numbers
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.bfloat16())
    expected = model(input_ids=torch.tensor([[3]])).logits
    assert read_head_in_16_bits(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" in model.state_dict()
    with torch.no_grad():
        found = model(input_ids=torch.tensor([[3]])).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not read_head_in_16_bits(model)  # it has one
