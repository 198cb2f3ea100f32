"""Random linears as methods see them."""

import torch

from crvq.methods import LinearInput, create_method
from crvq.methods.crvq_params import CrvqParams
from crvq.vq.hessian import Hessian

QUICK = {"codebook_bits": 4, "extended_bits": 4, "max_rounds": 3, "kmeans_iterations": 4}


def second_moment(in_features, seed=0, tokens=200):
    """E[x xᵀ] of correlated inputs whose channels differ in size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(in_features, in_features, generator=generator)
    sizes = torch.logspace(-1, 1, in_features)[torch.randperm(in_features, generator=generator)]
    x = torch.randn(tokens, in_features, generator=generator) @ mixing * sizes
    return x.T @ x / tokens


def random_linear(
    out_features=24, in_features=32, *, seed=0, kind="mlp.up_proj", name=None, hessian=None
):
    generator = torch.Generator().manual_seed(100 + seed)
    return LinearInput(
        name=name or f"layers.0.{kind}",
        kind=kind,
        weight=torch.randn(out_features, in_features, generator=generator),
        hessian=hessian or Hessian(second_moment(in_features, seed)),
        seed=seed,
        tokens=200,
    )


def crvq(**params):
    return create_method("crvq", CrvqParams(**{**QUICK, **params}), seed=0)


def quantize(linear, **params):
    (result,) = crvq(**params).quantize_block(0, [linear])
    return result


def relative_loss(linear, weight):
    """tr(ΔW H ΔWᵀ) / tr(W H Wᵀ) in float64, of a dequantized weight."""
    h, w = linear.hessian.matrix.double(), linear.weight.double()
    delta = w - weight.double()
    return float(torch.trace(delta @ h @ delta.T) / torch.trace(w @ h @ w.T))
