"""The quantized linear as a module: shapes, dtypes, moves, shared reorders, training."""

import copy
import gc

import pytest
import torch
from torch.nn import functional

from crvq.inference import QuantizedLinear, share_reorders
from tests.inference.linears import random_weight, relative_error


def made(bias=True, **options):
    weight = random_weight(
        **{"out": 40, "in_features": 61, "bits": (6, 4), "coverage": [2]} | options
    )
    offset = torch.randn(weight.out_features) if bias else None
    return QuantizedLinear.from_weight(weight, offset), weight.dequantize(), offset


@pytest.mark.parametrize("shape", [(61,), (1, 61), (2, 3, 61), (0, 61), (70, 61), (2, 0, 61)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_any_batch_shape_and_dtype(shape, dtype):
    linear, dense, bias = made()
    x = torch.randn(shape).to(dtype)
    with torch.no_grad():
        y = linear(x)
    assert y.dtype == dtype
    expected = functional.linear(x.double(), dense.double(), bias.double())
    assert y.shape == expected.shape
    assert torch.allclose(y.double(), expected, rtol=0.02, atol=0.02 * 30)
    if y.numel():
        assert relative_error(y, expected) < {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(
            dtype, 2e-6
        )


def test_casting_a_model_leaves_the_stored_weight_alone():
    linear, _, _ = made()
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    linear.to(torch.bfloat16).half()
    after = linear.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["scales"].dtype == torch.float16


def test_state_dict_round_trip_by_copy_and_by_assignment():
    one, dense, bias = made(seed=1)
    x = torch.randn(2, 61)
    for assign in (False, True):
        other, _, _ = made(seed=2)
        other(x)  # what kernels keep of the first weight must not survive
        other.load_state_dict(one.state_dict(), assign=assign)
        assert relative_error(other(x), functional.linear(x, dense, bias)) < 2e-6
    duplicate = copy.deepcopy(one)
    assert torch.equal(duplicate(x), one(x))


def test_a_replaced_buffer_is_noticed():
    linear, dense, _ = made(bias=False)
    x = torch.randn(1, 61)
    y = linear(x)
    linear.scales = linear.scales * 2
    assert torch.equal(linear(x), 2 * y)
    assert relative_error(y, x @ dense.t()) < 2e-6


def test_inputs_are_reordered_once_for_linears_with_one_permutation(monkeypatch):
    first, dense, _ = made(bias=False)
    second, _, _ = made(bias=False)
    model = torch.nn.ModuleList([first, second])
    assert share_reorders(model) == 1
    assert first.reorder is second.reorder
    calls = []
    reorder = type(first.packed).reorder
    monkeypatch.setattr(
        type(first.packed), "reorder", lambda self, x: calls.append(1) or reorder(self, x)
    )
    monkeypatch.setenv("CRVQ_KERNELS", "torch")
    monkeypatch.setattr("crvq.inference.native.serves", lambda linear: False)
    monkeypatch.setattr("crvq.inference.numba_kernels.serves", lambda linear: False)
    x = torch.randn(5, 61)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))
        assert len(calls) == 1
        x += 1  # the same tensor with other values
        assert relative_error(second(x), x @ dense.t()) < 2e-6
        assert len(calls) == 2
    assert len(first.reorder._last) == 1
    del x
    gc.collect()
    assert not first.reorder._last  # no layer keeps its inputs alive


def test_gradients_through_the_module():
    linear, dense, bias = made()
    x = torch.randn(2, 3, 61, requires_grad=True)
    y = linear(x)
    y.square().sum().backward()
    other = x.detach().clone().requires_grad_()
    functional.linear(other, dense, bias).square().sum().backward()
    assert relative_error(x.grad, other.grad) < 1e-5


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_parts_can_be_trained(stored):
    linear, dense, bias = made(stored=stored)
    x = torch.randn(64, 61)
    before = linear(x)
    linear.train_parts()
    assert relative_error(linear(x), before) < 2e-6
    assert {name for name, _ in linear.named_parameters()} == {
        "codebook_0", "codebook_1", "scales",
    }  # fmt: skip
    target = functional.linear(x, dense * 1.1, bias)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = functional.mse_loss(linear(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 4


def test_buffers_weigh_what_is_stored():
    weight = random_weight(out=256, in_features=1024, bits=(8, 8, 8, 8), coverage=[3, 3, 3])
    linear = QuantizedLinear.from_weight(weight)
    held = sum(b.numel() * b.element_size() for b in linear.buffers())
    assert held <= 1.05 * weight.bits().total / 8
