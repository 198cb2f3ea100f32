"""The proof that calibration and evaluation share no text."""

from __future__ import annotations

import numpy as np
import torch

from crvq.errors import ConfigError

RUN = 64
"""So many equal tokens in a row (some 50 words) are the same text, not the same phrase."""
TOLERANCE = 0.001
"""Share of evaluation positions that may recur: web text repeats notices and boilerplate."""


def assert_disjoint(
    calibration: torch.Tensor,
    evaluation: torch.Tensor,
    calibration_key: str = "calibration",
    evaluation_key: str = "eval.perplexity.NAME",
) -> float:
    """Refuse evaluation windows that repeat text of the calibration windows.

    Every run of `RUN` tokens (of a whole window, where windows are shorter) of the evaluation is
    looked up among those of the calibration, at any offset, whatever sources the two came from.

    Args:
        calibration: (samples, length) token ids.
        evaluation: (windows, context) token ids of the same tokenizer.
        calibration_key: the config key of the one text, for the message.
        evaluation_key: the config key of the other text, for the message.

    Returns:
        The share of evaluation runs that also occur in the calibration, at most `TOLERANCE`.

    Raises:
        ConfigError: it is more.
    """
    run = _power_of_two(min(RUN, calibration.shape[1], evaluation.shape[1]))
    known = np.unique(_run_hashes(calibration, run))
    shared = np.isin(_run_hashes(evaluation, run), known)
    share = float(shared.mean())
    if share > TOLERANCE:
        windows = np.flatnonzero(shared.any(axis=1))
        raise ConfigError(
            f"{calibration_key} and {evaluation_key} share text: {share:.1%} of the evaluation's "
            f"runs of {run} tokens also occur in the calibration windows (in {len(windows)} of "
            f"{len(evaluation)} evaluation windows, first in window {windows[0]}); give one of the "
            "two keys another text, split or part"
        )
    return share


def _run_hashes(windows: torch.Tensor, run: int) -> np.ndarray:
    """A 64-bit hash for the ``run`` tokens that start at each position, (n, length - run + 1).

    Hashes of runs twice as long come from two hashes of half the length: log2(run) steps.
    """
    hashes = windows.cpu().numpy().astype(np.uint64) + np.uint64(1)
    length = 1
    while length < run:
        hashes = _mixed(hashes[:, :-length]) * np.uint64(0x9E3779B97F4A7C15) + hashes[:, length:]
        length *= 2
    return hashes


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread every input bit over the word, so that sums of two hashes seldom collide."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(27))


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is not above ``number``."""
    return 1 << (number.bit_length() - 1)
