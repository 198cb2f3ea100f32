"""Windows of tokens: consecutive ones to evaluate on, drawn ones to calibrate on."""

from __future__ import annotations

import torch

from crvq.data.bos import with_bos
from crvq.errors import ConfigError


def check_context(length: int, limit: int | None, key: str) -> None:
    """Refuse windows longer than the model's context.

    Args:
        length: tokens in a window.
        limit: the model's longest context; None if it has no limit.
        key: the config key that set ``length``, for the message.

    Raises:
        ConfigError: ``length`` is more than ``limit``.
    """
    if limit is not None and length > limit:
        raise ConfigError(
            f"{key}={length} is longer than the model's context of {limit} tokens; "
            f"set {key}={limit} or less"
        )


def evaluation_windows(
    tokens: torch.Tensor,
    context: int,
    max_windows: int | None = None,
    key: str = "eval.perplexity.NAME",
    stride: int | None = None,
) -> torch.Tensor:
    """Consecutive windows, (n, context), a view of ``tokens``; the tail is dropped.

    Args:
        tokens: (n_tokens,) the whole text.
        context: tokens in a window.
        max_windows: keep only the first so many.
        key: the dataset's config key, for the message.
        stride: tokens from one window's start to the next one's; None: ``context``, no overlap.

    Raises:
        ConfigError: the text is too short for one window.
    """
    if len(tokens) < context:
        raise ConfigError(
            f"{key}: the text has {len(tokens)} tokens, but one window needs {context}; set "
            f"{key}.context={len(tokens)} or less, or use a longer text"
        )
    return tokens.unfold(0, context, stride or context)[:max_windows]


def calibration_windows(
    tokens: torch.Tensor,
    samples: int,
    length: int,
    seed: int,
    key: str = "calibration",
    bos: int | None = None,
) -> torch.Tensor:
    """Return ``samples`` windows at random places that do not overlap, (samples, length).

    Papers draw every start independently from a text so large that windows hardly ever overlap.
    Here the text may be small: a text with too few tokens is refused, because a repeated window
    would count twice and add nothing, and windows are placed so that none overlap. The tokens
    before each window that are in no other window are drawn independently from 0 to
    ``spare = tokens - samples * length`` and sorted. Placements whose draws all differ are equally
    likely (``samples! / (spare + 1)^samples``). One in which windows touch comes from equal draws
    and is less likely, by the factorial of the number of windows in each touching run; in a text
    much longer than the windows this is rare.

    Args:
        tokens: (n_tokens,) the whole text.
        samples: how many windows.
        length: tokens in a window.
        seed: decides the places and the order of the windows.
        key: the config key of the text, for the message.
        bos: a token to put before each window; ``length`` counts it, so that a window then has
            ``length - 1`` tokens of text.

    Raises:
        ConfigError: fewer tokens than all windows need.
    """
    if bos is not None:
        return with_bos(calibration_windows(tokens, samples, length - 1, seed, key), bos)
    spare = len(tokens) - samples * length
    if spare < 0:
        fitting = len(tokens) // length
        advice = (
            f"set {key}.samples={fitting} or less" if fitting else f"set a smaller {key}.length"
        )
        raise ConfigError(
            f"{key}: the text has {len(tokens)} tokens, but {samples} windows of {length} need "
            f"{samples * length}; {advice}, or use a longer text"
        )
    generator = torch.Generator().manual_seed(seed)
    # Sorted gaps before each window: windows laid behind one another with the spare spread out.
    gaps = torch.randint(0, spare + 1, (samples,), generator=generator).sort().values
    starts = gaps + torch.arange(samples) * length
    order = torch.randperm(samples, generator=generator)
    return tokens[starts[order, None] + torch.arange(length)]
