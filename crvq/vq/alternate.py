"""The alternation: codebooks and scales for fixed codes, codes for fixed codebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from crvq.vq.additive_code import AdditiveCode, CodedLinear
from crvq.vq.codebook_solve import solve_codebooks
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.feedback_search import search_codes
from crvq.vq.improve_codes import Improved, PreparedLinear, evaluate, improve_codes, prepare
from crvq.vq.scale_solve import solve_scales
from crvq.vq.storage import CodebookDtype, round_codebook


@dataclass(frozen=True)
class AlternationSettings:
    """When to stop, and how hard to search. (arXiv 2412.09282, algorithm 1.)"""

    max_rounds: int = 8
    relative_gain: float = 0.01
    """Stop when a round lowers the loss by less than this part."""
    codebook_steps: int = 4
    """Conjugate-gradient steps per round."""
    beam: int = 1
    """Partial codes kept for each row by the feedback search."""
    search: Literal["descent", "feedback_start", "feedback"] = "feedback_start"
    """Error-feedback search never, for the first codes, or in every round."""
    codebook_dtype: CodebookDtype = "float16"
    train_codebooks: bool = True
    """False when codebooks were fixed beforehand for the whole model."""


@dataclass(frozen=True)
class Alternated:
    """What the alternation reached."""

    codebooks: list[Tensor]
    """Float32, as they come back from storage."""
    rounds: int
    losses: list[float]
    """Relative losses (summed over linears by importance), the start first."""


def alternate(
    linears: list[CodedLinear],
    codebooks: list[Tensor],
    settings: AlternationSettings,
) -> Alternated:
    """Lower the loss of ``linears`` that share ``codebooks``; their codes change in place.

    Codebooks and scales end as float16 (or int8) storage holds them, and the codes are searched
    once more for the stored values, so that the loss is that of what lies on disk.

    Args:
        linears: codes may hold anything; scales must be set.
        codebooks: where to start.
        settings: see `AlternationSettings`.
    """
    # First of all, as it needs the factor of H's inverse, which is as large as H.
    for linear in linears:
        if settings.search != "descent":
            search_codes(linear, codebooks, settings.beam, into=linear.code)
        else:
            descend_codes(linear, codebooks)
        if settings.search != "feedback":
            linear.release_feedback_factor()
    prepared = [prepare(linear) for linear in linears]
    # Losses are relative to quantizing everything to zero, so that stopping is free of units.
    energy = sum(x.energy * x.linear.importance for x in prepared)

    def relative(improved: list[Improved]) -> float:
        total = sum(x.importance * new.loss for x, new in zip(linears, improved, strict=True))
        return total / energy if energy > 0 else 0.0

    def solve(improved: list[Improved]) -> list[Tensor]:
        """New codebooks for the codes that a pass has left, which knows their gradient."""
        if not settings.train_codebooks:
            return codebooks
        gradient = sum((new.gradient for new in improved[1:]), improved[0].gradient)
        ordered = [x.linear for x in prepared]
        return solve_codebooks(ordered, codebooks, settings.codebook_steps, residual=gradient)

    improved = [evaluate(x, codebooks) for x in prepared]
    losses = [relative(improved)]
    rounds = 0
    # Each half of a round is optimal (or no worse) for what the other left: the loss only falls.
    while rounds < settings.max_rounds and losses[-1] > 0:
        rounds += 1
        codebooks = solve(improved)
        improved = [
            _improve(linear, x, codebooks, settings)
            for linear, x in zip(linears, prepared, strict=True)
        ]
        losses.append(relative(improved))
        # Rounds bring ever less; what a late one gains is lost in rounding to storage.
        if losses[-1] > losses[-2] * (1 - settings.relative_gain):
            break
    # Last codebooks for the last codes, rounded to storage; codes and scales follow.
    codebooks = [round_codebook(c, settings.codebook_dtype) for c in solve(improved)]
    losses.append(relative([improve_codes(x, codebooks, last=True) for x in prepared]))
    return Alternated(codebooks, rounds, losses)


def _improve(
    linear: CodedLinear,
    prepared: PreparedLinear,
    codebooks: list[Tensor],
    settings: AlternationSettings,
) -> Improved:
    """Find new scales and codes, with ``search=feedback`` from scratch where that is better."""
    if settings.search == "feedback":
        linear.code.scales = solve_scales(linear, codebooks)
        _keep_better_rows(linear, codebooks, search_codes(linear, codebooks, settings.beam))
    return improve_codes(prepared, codebooks, last=False)


def _keep_better_rows(linear: CodedLinear, codebooks: list[Tensor], found: AdditiveCode) -> None:
    # Rows are independent given the codebooks, so the better code may be taken row by row.
    better = linear.row_loss(codebooks, found) < linear.row_loss(codebooks)
    for present, new in zip(linear.code.codes, found.codes, strict=True):
        present[better] = new[better]
