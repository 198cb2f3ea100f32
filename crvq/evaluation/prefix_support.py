"""Whether a model computes rows with branches (`crvq.evaluation.prefix_rows`) as it should."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crvq.evaluation.hidden_states import HeadSplit
from crvq.evaluation.prefix_rows import PrefixRow, batch, merge

_TOKENS = 6
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15}


def sees_prefix_rows(
    model: PreTrainedModel,
    split: HeadSplit | None,
    row: PrefixRow,
    activation_dtype: torch.dtype,
) -> bool:
    """Try it: a short row with two branches against the two sequences by themselves.

    Models with a sliding window, with positions of their own making (ALiBi) or with a recurrent
    state heed no such mask or no such positions; some say so, some show it only in the numbers.

    Args:
        model: in eval mode, computing in ``activation_dtype`` (`forward_precision`).
        split: its body and head, or None.
        row: any row of the model's own tokens.
        activation_dtype: decides what is still rounding.
    """
    if _has_window(model):
        return False
    # The second branch is the one that would see too much, from the wrong place.
    prefix, branch = row.tokens[:_TOKENS], row.tokens[-_TOKENS:]
    words = int(model.config.get_text_config().vocab_size)
    sequences = [*prefix, *branch], [*prefix, *((token + 1) % words for token in branch)]
    together = merge(sequences)
    body = split.body if split is not None else model
    device, limit = model.device, _TOLERANCE[activation_dtype]
    try:
        with torch.inference_mode():
            branched = _outputs(body, **batch([together], device).arguments())
            for sequence, path in zip(sequences, together.paths, strict=True):
                alone = _outputs(body, input_ids=torch.tensor([sequence], device=device))
                if _distance(branched[0, path], alone[0]) > limit:
                    return False
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    return True


def _has_window(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        return True
    window = getattr(config, "sliding_window", None)
    return not kinds and window is not None and getattr(config, "use_sliding_window", True)


def _outputs(body: nn.Module, **arguments: Tensor) -> Tensor:
    """Hidden states, or logits where the whole model is asked."""
    found = body(**arguments, use_cache=False)
    states = getattr(found, "last_hidden_state", None)
    return found.logits if states is None else states


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest relative difference of a position's vector; infinite for NaN."""
    gap = (one.double() - other.double()).norm(dim=-1) / other.double().norm(dim=-1)
    return float(gap.nan_to_num(nan=torch.inf).max())
