"""Put quantized linears into a model, which may still be without weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crvq.inference.linear import QuantizedLinear, share_reorders
from crvq.weights.additive import AdditiveWeight


def replace_linears(
    model: nn.Module,
    weights: Mapping[str, AdditiveWeight],
    biases: Mapping[str, Tensor] | None = None,
) -> None:
    """Replace linears by quantized ones; their dense weights are never read.

    So a model can be made on the meta device, given its quantized linears, and then only its
    unquantized tensors be loaded.

    Args:
        model: changed in place.
        weights: by the linear's name in the model (``model.layers.0.self_attn.q_proj``).
        biases: likewise; a linear whose bias has a value already keeps it.

    Raises:
        ValueError: a name is no linear of the model, its shape differs, or its bias is missing.
    """
    modules = dict(model.named_modules())
    replaced: dict[str, QuantizedLinear] = {}
    for name, weight in weights.items():
        old = modules.get(name)
        if old is None:
            raise ValueError(f"the model has no module {name!r}; it has {sorted(modules)[:5]}, …")
        shape = getattr(old, "out_features", None), getattr(old, "in_features", None)
        if shape != (weight.out_features, weight.in_features):
            raise ValueError(
                f"{name} is {type(old).__name__} with (out, in) {shape}, the quantized weight has "
                f"{(weight.out_features, weight.in_features)}: they are of different models"
            )
        bias = (biases or {}).get(name, getattr(old, "bias", None))
        if bias is not None and bias.is_meta:
            raise ValueError(f"{name} has a bias on the meta device: give its value in biases")
        replaced[name] = QuantizedLinear.from_weight(
            weight, None if bias is None else bias.detach()
        )
    # Only once all are made: a refused weight leaves the model as it was.
    for name, linear in replaced.items():
        model.set_submodule(name, linear)
    share_reorders(model)


def linear_bytes(model: nn.Module) -> int:
    """Bytes that the quantized linears hold in memory, tensors that they share once."""
    tensors = {
        tensor.data_ptr(): tensor.numel() * tensor.element_size()
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
        for tensor in module.buffers()
    }
    return sum(tensors.values())
