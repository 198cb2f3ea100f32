"""Losses of end-to-end fine-tuning: to the teacher's distribution, or to the next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from crvq.team import Team

Head = Callable[[Tensor], Tensor]
"""From hidden states ``(positions, hidden)`` to logits ``(positions, vocabulary)``."""
Divergence = Callable[[slice, Tensor], Tensor]
"""From a slice of positions and the student's float32 logits there to the sum of their KL."""

POSITIONS = 256
"""Positions whose logits are held at once: 50 MB in float32 for 49152 tokens."""


def sliced_kl(
    states: Tensor, head: Head, divergence: Divergence, positions: int = POSITIONS
) -> Tensor:
    """The mean over positions of KL(teacher || student), with a gradient for ``states``.

    The gradient is taken slice by slice as the loss is computed, so that neither logits of all
    positions are held nor any are computed twice. Only one backward pass is possible.

    Args:
        states: the student's last hidden states, ``(positions, hidden)``.
        head: frozen; no gradient is taken for it.
        divergence: see `crvq.finetune.teacher`.
        positions: of a slice.
    """
    wanted = states.requires_grad and torch.is_grad_enabled()
    return _SlicedKl.apply(states, head, divergence, positions, wanted)


def exact_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL between predictions given as logits ``(positions, vocabulary)``, summed."""
    known = teacher.float().log_softmax(-1)
    return (known.exp() * (known - student.float().log_softmax(-1))).sum()


def top_k_kl(log_probabilities: Tensor, tokens: Tensor, student: Tensor) -> Tensor:
    """KL with all tokens but the teacher's k likeliest taken as one, summed over positions.

    A lower bound of the exact divergence, and the same where k is the whole vocabulary.

    Args:
        log_probabilities: the teacher's, ``(positions, k)``.
        tokens: which they are, ``(positions, k)``.
        student: logits ``(positions, vocabulary)``.
    """
    guessed = student.float().log_softmax(-1).gather(-1, tokens)
    known = log_probabilities.exp()
    total = (known * (log_probabilities - guessed)).sum()
    if tokens.shape[-1] == student.shape[-1]:
        return total
    smallest = torch.finfo(torch.float32).eps
    tail = (1 - known.sum(-1)).clamp_min(smallest)
    guessed_tail = (1 - guessed.exp().sum(-1)).clamp_min(smallest)
    return total + (tail * (tail.log() - guessed_tail.log())).sum()


def kl_probe(states: Tensor, head: Head, generator: torch.Generator) -> Tensor:
    """A random scalar whose squared gradients are, on average, the mean KL's hessian.

    The hessian of KL(teacher || student) in the student's logits is the Fisher matrix of the
    student's own predictions, so the diagonal of the Gauss-Newton matrix is the mean of squared
    gradients of the cross-entropy of tokens drawn from them (as in Sophia, arXiv 2305.14342).

    Args:
        states: as for `sliced_kl`.
        head: as for `sliced_kl`.
        generator: of the tokens; on the CPU.
    """
    places = torch.rand(len(states), 1, generator=generator).to(states.device)

    def drawn(part: slice, logits: Tensor) -> Tensor:
        with torch.no_grad():
            summed = logits.softmax(-1).cumsum(-1)
            # Rounding leaves the sum of probabilities a little off one.
            tokens = torch.searchsorted(summed, places[part] * summed[:, -1:])
        return cross_entropy(logits, tokens[:, 0].clamp_max(logits.shape[-1] - 1), reduction="sum")

    # The mean over n positions of independent draws, whose squares are to add up to 1/n of theirs.
    return sliced_kl(states, head, drawn) * len(states) ** 0.5


class _SlicedKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's own
        states: Tensor,
        head: Head,
        divergence: Divergence,
        positions: int,
        wanted: bool,
    ) -> Tensor:
        gradient = torch.empty_like(states) if wanted else None
        total = torch.zeros((), device=states.device)
        for start in range(0, len(states), positions):
            part = slice(start, min(start + positions, len(states)))
            with torch.set_grad_enabled(wanted):
                own = states[part].detach().requires_grad_(wanted)
                loss = divergence(part, head(own).float())
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(loss, own)
            total += loss.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient / len(states))
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None, None


class NextTokenLoss:
    """Sums the cross-entropy of next tokens over the windows of one validation."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def watched(self, divergence: Divergence, window: Tensor) -> Divergence:
        """``divergence``, which also counts how well the window's own tokens were predicted.

        Args:
            divergence: of the positions of one window.
            window: its token ids, ``(length,)``; each position but the last predicts the next.
        """
        following = window[1:]

        def look(part: slice, logits: Tensor) -> Tensor:
            wanted = following[part]
            if len(wanted):
                loss = cross_entropy(logits[: len(wanted)].float(), wanted, reduction="sum")
                self._total += float(loss)
                self._count += len(wanted)
            return divergence(part, logits)

        return look

    def add_up(self, workers: Team) -> None:
        """Add what other processes watched."""
        self._total, count = workers.total([self._total, float(self._count)])
        self._count = int(count)

    def perplexity(self) -> float:
        """Over all windows watched, weighted by tokens; NaN before there is one."""
        if not self._count:
            return math.nan
        mean = self._total / self._count
        return math.exp(mean) if mean < 700 else math.inf
