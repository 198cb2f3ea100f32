"""Greedy continuations of a few prompts: what a quantized model says, for the eye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from crvq.errors import ConfigError, QuantizationError
from crvq.evaluation.finite import nonfinite_error
from crvq.models.precision import measuring_precision
from crvq.models.quiet import quiet_transformers


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    limit: int | None,
    chat_template: bool = False,
) -> list[torch.Tensor]:
    """Token ids (1, n) of each prompt, with the special tokens that the tokenizer adds.

    Args:
        tokenizer: the model's.
        prompts: texts to continue.
        max_new_tokens: tokens that will be added.
        limit: the model's longest context; None if it has no limit.
        chat_template: put each prompt as a user's message through the model's chat template.

    Raises:
        ConfigError: no chat template, a prompt without tokens, or one too long to be continued.
    """
    if chat_template and not tokenizer.chat_template:
        raise ConfigError(
            "eval.generation.chat_template=true: this model's tokenizer has no chat template; "
            "set eval.generation.chat_template=false"
        )
    found = []
    for number, prompt in enumerate(prompts):
        key = f"eval.generation.prompts[{number}]"
        if chat_template:
            message = [{"role": "user", "content": prompt}]
            text: Any = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prompt)["input_ids"]
        if not ids:
            raise ConfigError(f"{key}={prompt!r} has no tokens for this model; give another one")
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise ConfigError(
                f"{key} has {len(ids)} tokens; with eval.generation.max_new_tokens="
                f"{max_new_tokens} that is more than the model's context of {limit}; shorten one "
                "of the two"
            )
        found.append(torch.tensor([ids]))
    return found


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[torch.Tensor],
    max_new_tokens: int,
    device: torch.device,
    activation_dtype: torch.dtype = torch.float32,
    on_prompt: Callable[[], None] | None = None,
) -> list[str]:
    """The most likely next token, again and again, until the end token or ``max_new_tokens``.

    The model's own generation settings (temperature, penalties) are left out: the same tokens
    each time, and nothing that hides what the model does.

    Args:
        model: on ``device``, in eval mode.
        tokenizer: the model's.
        prompts: from `prompt_tokens`.
        max_new_tokens: the most tokens of a continuation.
        device: where the model is.
        activation_dtype: type of forward passes.
        on_prompt: called after every prompt.

    Returns:
        The new text alone, without special tokens; empty if the model ends at once.

    Raises:
        QuantizationError: a logit is NaN or infinite; names the prompt and the module.
    """
    ends = end_tokens(model, tokenizer)
    padding = ends[0] if isinstance(ends, list) else ends
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=0 if padding is None else padding,
    )
    own, model.generation_config = model.generation_config, settings
    texts = []
    try:
        with (
            torch.inference_mode(),
            quiet_transformers(),
            measuring_precision(model, device, activation_dtype),
        ):
            for number, prompt in enumerate(prompts):
                tokens = prompt.to(device)
                watch = _Finite(model, f"prompt {number} of {len(prompts)}")
                generate: Any = model.generate
                made = generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([watch]),
                )
                new = made[0, tokens.shape[1] :]
                texts.append(str(tokenizer.decode(new, skip_special_tokens=True)))
                if on_prompt is not None:
                    on_prompt()
    finally:
        model.generation_config = own
    return texts


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:  # noqa: ANN401
    """Return the token, or list of tokens, that end a text; None if there is none.

    They lie in ``generation_config.json``, which no digest of weights or config covers.
    """
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return tokenizer.eos_token_id if ends is None else ends


class _Finite(LogitsProcessor):
    """Stops at NaN, of which an argmax would make some token without a word."""

    def __init__(self, model: PreTrainedModel, where: str) -> None:
        self._model, self._where = model, where

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isfinite(scores).all()):
            raise self._error(input_ids)
        return scores

    def _error(self, tokens: torch.Tensor) -> QuantizationError:
        return nonfinite_error("generation", self._model, tokens, self._where)
