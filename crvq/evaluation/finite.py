"""What to say when a measured model's output is NaN or infinite."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from crvq.errors import QuantizationError
from crvq.models.nonfinite import first_nonfinite_module


def nonfinite_error(
    metric: str, model: PreTrainedModel, tokens: torch.Tensor, where: str
) -> QuantizationError:
    """The error to raise; runs ``tokens`` (1, n) once more to see where the bad number comes from.

    Args:
        metric: what was measured, as in ``perplexity``.
        model: on the tokens' device, in the same precision as before.
        tokens: the input that gave NaN or infinity.
        where: which input it was, as in ``window 3 of 8``.
    """
    module = first_nonfinite_module(model, lambda: model(input_ids=tokens, use_cache=False))
    place = f"first in the output of {module}" if module else f"in the {metric} alone"
    return QuantizationError(
        f"{metric} is not finite: {where} gives NaN or infinity, {place}. "
        "Its weights are damaged or its inputs too large; look at that layer's relative loss in "
        "layers.csv, or try activation_dtype=float32"
    )
