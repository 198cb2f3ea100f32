import pytest
import torch

from crvq.errors import ConfigError
from crvq.models import precision
from crvq.models.precision import (
    forward_precision,
    measuring_precision,
    resolve_activation_dtype,
)
from tests.architectures import build, tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize(("able", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_processor(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert resolve_activation_dtype("auto", CPU) == expected


def test_auto_on_an_old_torch_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_activation_dtype("auto", CPU) == torch.float32


def test_auto_follows_the_gpu(monkeypatch):
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert resolve_activation_dtype("auto", torch.device("cuda")) == expected


def test_what_is_asked_for_is_given(monkeypatch):
    monkeypatch.setattr(precision, "_computes_in_bfloat16", lambda device: False)
    assert resolve_activation_dtype("bfloat16", CPU) == torch.bfloat16
    assert resolve_activation_dtype("float32", CPU) == torch.float32
    assert resolve_activation_dtype("auto", CPU, torch.bfloat16) == torch.bfloat16


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"model\.dtype=bfloat16"):
        resolve_activation_dtype("float32", CPU, torch.bfloat16)
    with pytest.raises(ConfigError, match="activation_dtype=float16 is unknown"):
        resolve_activation_dtype("float16", CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_compute_in_the_dtype_and_weights_stay(dtype):
    linear = torch.nn.Linear(8, 8).requires_grad_(False)
    before = linear.weight.clone()
    with forward_precision(CPU, dtype):
        assert linear(torch.ones(1, 8)).dtype == dtype
    assert linear.weight.dtype == torch.float32
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_weights_rounded_once_give_what_autocast_gives_bit_for_bit(name):
    model = build(name)
    before = dict(model.named_parameters())
    ids = tokens(1, 16)
    with torch.no_grad(), forward_precision(CPU, torch.bfloat16):
        expected = model(ids).logits
    with torch.no_grad(), measuring_precision(model, CPU, torch.bfloat16):
        rounded = {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16}
        assert any(n.endswith(("q_proj.weight", "c_attn.weight")) for n in rounded)
        with measuring_precision(model, CPU, torch.bfloat16):  # nested: nothing left to round
            assert torch.equal(model(ids).logits, expected)
        assert rounded == {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16}
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_weights_come_back_when_measuring_fails():
    model = build("Llama")
    before = dict(model.named_parameters())
    with pytest.raises(RuntimeError), measuring_precision(model, CPU, torch.bfloat16):
        raise RuntimeError
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_float32_rounds_nothing():
    model = build("Llama")
    with measuring_precision(model, CPU, torch.float32):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
