import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from crvq.finetune.losses import NextTokenLoss, sliced_kl


@pytest.mark.parametrize("positions", [2, 3, 7, 100])
def test_it_is_the_perplexity_of_all_windows_however_they_are_sliced(positions):
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(5, 11, generator=generator)
    seen, total, count = NextTokenLoss(), 0.0, 0
    for length in (7, 4):
        window = torch.randint(11, (length,), generator=generator)
        states = torch.randn(length, 5, generator=generator)
        divergence = seen.watched(lambda part, logits: logits.sum() * 0 + 1, window)
        sliced_kl(states, lambda x: x @ head, divergence, positions)
        logits = (states @ head)[:-1]
        total += float(cross_entropy(logits, window[1:], reduction="sum"))
        count += length - 1
    assert seen.perplexity() == pytest.approx(math.exp(total / count))


def test_what_is_watched_stays_the_divergence():
    window = torch.arange(4)
    watched = NextTokenLoss().watched(lambda part, logits: logits.sum(), window)
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert float(watched(slice(2, 4), logits)) == float(logits.sum())


def test_before_a_window_there_is_none():
    assert math.isnan(NextTokenLoss().perplexity())
