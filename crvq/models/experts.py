"""Make a mixture's experts compute in a way that shows what each of them is given."""

from __future__ import annotations

from transformers import PreTrainedModel


def run_experts_one_by_one(model: PreTrainedModel) -> None:
    """Let fused experts be applied as linears, an expert at a time; others change nothing.

    transformers' default for mixtures is one grouped product for all experts, in which the input
    of a single expert cannot be seen; its weights would then stay in full precision. Perplexity
    is taken in this way as well, so that before and after quantization compare.
    """
    # Releases of transformers before 5.1 have no choice to make.
    choose = getattr(model, "set_experts_implementation", None)
    if choose is not None and getattr(model.config, "_experts_implementation", None) != "eager":
        choose("eager")
