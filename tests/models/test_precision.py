import pytest
import torch

from crvq.errors import ConfigError
from crvq.models import precision
from crvq.models.precision import forward_precision, resolve_activation_dtype

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
