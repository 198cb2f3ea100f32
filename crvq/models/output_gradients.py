"""How much the model's loss feels an error of each linear layer's outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from crvq.models.precision import forward_precision


def squared_output_gradients(
    model: PreTrainedModel,
    modules: Mapping[str, nn.Module],
    windows: Tensor,
    activation_dtype: torch.dtype,
) -> dict[str, float]:
    """Return the mean square of the loss's gradient in a layer's outputs, a token's each.

    With the loss being a token's cross-entropy (in nats), ``½ Σ_o E[g_o²] δ_o²`` is what an error δ
    of the outputs costs if the loss's hessian is taken to be the empirical Fisher matrix, and that
    to be diagonal. The number returned is the mean of ``E[g_o²]`` over a layer's outputs.

    Args:
        model: in eval mode, whole in memory; its weights get no gradients.
        modules: linear layers by name.
        windows: token ids, ``(windows, length)``; one forward and one backward pass each.
        activation_dtype: type of forward passes.
    """
    totals = dict.fromkeys(modules, 0.0)
    counts = dict.fromkeys(modules, 0)
    handles = []
    for name, module in modules.items():

        def look(_: nn.Module, __: object, grads: tuple[Tensor, ...], name: str = name) -> None:
            (gradient,) = grads
            totals[name] += float(gradient.float().square().sum(dtype=torch.float64))
            counts[name] += gradient.numel()

        handles.append(module.register_full_backward_hook(look))
    embed = model.get_input_embeddings()
    try:
        for window in windows:
            tokens = window[None].to(embed.weight.device)
            # Gradients flow from the loss to the embeddings of the text, through all layers.
            start = embed(tokens).detach().requires_grad_(True)
            with torch.enable_grad(), forward_precision(start.device, activation_dtype):
                logits = model(inputs_embeds=start, use_cache=False).logits[0, :-1].float()
                # A sum: each token's own gradient, not a mean's.
                cross_entropy(logits, tokens[0, 1:], reduction="sum").backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: totals[name] / max(counts[name], 1) for name in modules}
