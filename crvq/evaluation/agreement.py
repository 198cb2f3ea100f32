"""How closely a model follows another one's next-token distributions, token by token.

At 1 bit this says more than accuracies near chance: a perplexity may come back by luck of a few
tokens, the whole distribution does not (Dutta et al., "Accuracy is Not All You Need",
arXiv 2407.09141).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from crvq.errors import QuantizationError
from crvq.evaluation.finite import nonfinite_error
from crvq.evaluation.hidden_states import HeadSplit, split_head
from crvq.models.precision import measuring_precision

POSITIONS = 64
"""Positions whose logits are held at once, for each of the two models."""
GPU_POSITIONS = 512
"""The same on a GPU, which wants larger pieces of work."""


@dataclass(frozen=True)
class AgreementResult:
    """Agreement with the reference model, and what it is a mean of."""

    kl_divergence: float
    """Mean over positions of KL(reference || model), in nats per token; 0 for equal models."""
    top1_agreement: float
    """Share of positions where both models' most likely token is the same; 1 for equal models."""
    tokens: int
    """Positions compared: windows x (context - 1), those that perplexity scores."""
    windows: int
    context: int


def final_hidden_states(
    model: PreTrainedModel,
    windows: torch.Tensor,
    device: torch.device,
    activation_dtype: torch.dtype = torch.float32,
    on_window: Callable[[], None] | None = None,
) -> list[torch.Tensor]:
    """Return what the reference model's head reads, on the CPU: one (context - 1, hidden) a window.

    The head turns them into logits later, slice by slice: states of SmolLM2 take 5 MB for a
    window of 2048 tokens, its logits 400.

    Raises:
        QuantizationError: a NaN or infinity (names window and module), or a model whose logits
            cannot be computed from its hidden states.
    """
    states = []
    with torch.inference_mode(), measuring_precision(model, device, activation_dtype):
        split = _require_split(model, windows, device)
        for index in range(len(windows)):
            window = windows[index : index + 1].to(device)
            found = split.hidden_states(window)[0, :-1]
            if not bool(torch.isfinite(found).all()):
                where = f"window {index} of {len(windows)}"
                raise nonfinite_error("agreement", model, window, where)
            states.append(found.cpu())
            if on_window is not None:
                on_window()
    return states


def agreement(
    model: PreTrainedModel,
    windows: torch.Tensor,
    reference: list[torch.Tensor],
    device: torch.device,
    activation_dtype: torch.dtype = torch.float32,
    on_window: Callable[[], None] | None = None,
) -> AgreementResult:
    """KL divergence from, and top-1 agreement with, the model that ``reference`` was taken from.

    Both models' logits come from ``model``'s head, which quantization leaves as it is.

    Args:
        model: on ``device``, in eval mode.
        windows: (n, context) token ids.
        reference: from `final_hidden_states`, of the same windows.
        device: where the model is.
        activation_dtype: as for perplexity; log-softmax is taken in float32, sums in float64.
        on_window: called after every window.

    Raises:
        QuantizationError: the model's output is NaN or infinite; names the window and the module.
    """
    count, context = windows.shape
    divergence, same = 0.0, 0
    with torch.inference_mode(), measuring_precision(model, device, activation_dtype):
        split = _require_split(model, windows, device)
        for index in range(count):
            window = windows[index : index + 1].to(device)
            states = split.hidden_states(window)[0, :-1]
            total, equal = _compare(split, reference[index].to(device), states)
            if not math.isfinite(total):
                raise nonfinite_error("agreement", model, window, f"window {index} of {count}")
            divergence += total
            same += equal
            if on_window is not None:
                on_window()
    tokens = count * (context - 1)
    return AgreementResult(
        # Rounding may leave a sum of zeros a little below zero.
        kl_divergence=max(0.0, divergence / tokens),
        top1_agreement=same / tokens,
        tokens=tokens,
        windows=count,
        context=context,
    )


def _compare(split: HeadSplit, reference: torch.Tensor, states: torch.Tensor) -> tuple[float, int]:
    """Summed KL divergence and number of equal most likely tokens, (positions, hidden) each."""
    positions = POSITIONS if states.device.type == "cpu" else GPU_POSITIONS
    sums, equal = [], []
    for start in range(0, len(states), positions):
        wanted = split.head(reference[start : start + positions]).float()
        given = split.head(states[start : start + positions]).float()
        equal.append((wanted.argmax(-1) == given.argmax(-1)).sum())
        logs = wanted.log_softmax(-1)
        difference = logs - given.log_softmax(-1)
        sums.append((logs.exp_() * difference).sum(-1).double().sum())
    return float(torch.stack(sums).sum()), int(torch.stack(equal).sum())


def _require_split(
    model: PreTrainedModel, windows: torch.Tensor, device: torch.device
) -> HeadSplit:
    split = split_head(model, windows[:1].to(device))
    if split is None:
        raise QuantizationError(
            f"eval.agreement: the logits of a {type(model).__name__} cannot be computed from its "
            "last hidden states, so agreement would hold all logits; set eval.agreement=null"
        )
    return split
