"""What must hold for every method that quantizes linear by linear."""

import pytest
import torch

from crvq.methods import LinearShape, create_method, method_params
from crvq.weights import unpack_weight
from tests.methods.linear_examples import relative_loss


def make(name, **params):
    return create_method(name, method_params(name)(**params), seed=0)


def quantize(name, linear, **params):
    (result,) = make(name, **params).quantize_block(0, [linear])
    return result


def check_result(result):
    """Stored and read back it is the same; its bits are its bytes; its loss is the true one."""
    weight, linear = result.weight, result.source
    tensors = weight.pack()
    restored = unpack_weight(weight.header(), tensors, {})
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert weight.dequantize().shape == linear.weight.shape
    assert bool(torch.isfinite(weight.dequantize()).all())
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert weight.bits().total == restored.bits().total == 8 * stored
    exact = relative_loss(linear, weight.dequantize())
    assert result.relative_loss == pytest.approx(exact, rel=1e-3)
    h, w = linear.hessian.matrix.double(), linear.weight.double()
    energy = float(torch.trace(w @ h @ w.T))
    assert result.loss == pytest.approx(exact * energy / len(w), rel=1e-3)


def shape_of(linear):
    return LinearShape(linear.kind, *linear.weight.shape)


def planned_bits(name, linear, **params):
    method = make(name, **params)
    return method.count(method.params, shape_of(linear))
