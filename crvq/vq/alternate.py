"""The alternation: codebooks and scales for fixed codes, codes for fixed codebooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from crvq.vq.additive_code import AdditiveCode
from crvq.vq.codebook_solve import solve_codebooks
from crvq.vq.codebook_storage import CodebookDtype, round_codebook
from crvq.vq.coded_linear import CodedLinear
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.feedback_search import search_codes
from crvq.vq.scale_solve import solve_scales
from crvq.vq.storage_range import to_float16


@dataclass(frozen=True)
class AlternationSettings:
    """When to stop, and how hard to search. (arXiv 2412.09282, algorithm 1.)"""

    max_rounds: int = 8
    relative_gain: float = 0.01
    """Stop when a round lowers the loss by less than this part."""
    codebook_steps: int = 4
    """Conjugate-gradient steps a round."""
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
    on_round: Callable[[int, float], None] = lambda number, loss: None,
) -> Alternated:
    """Lower the loss of ``linears`` that share ``codebooks``; their codes change in place.

    Codebooks and scales end as float16 (or int8) storage holds them, and the codes are searched
    once more for the stored values, so that the loss is that of what lies on disk.

    Args:
        linears: codes may hold anything; scales must be set.
        codebooks: where to start.
        settings: see `AlternationSettings`.
        on_round: told each round's number and relative loss.
    """
    # First of all, as it needs the factor of H's inverse, which is as large as H.
    for linear in linears:
        if settings.search != "descent":
            search_codes(linear, codebooks, settings.beam, into=linear.code)
        else:
            descend_codes(linear, codebooks)
        if settings.search != "feedback":
            linear.release_feedback_factor()
    energy = sum(linear.energy * linear.importance for linear in linears)

    def relative(losses: list[float]) -> float:
        total = sum(x.importance * loss for x, loss in zip(linears, losses, strict=True))
        return total / energy if energy > 0 else 0.0

    def measured() -> float:
        return relative([float(linear.row_loss(codebooks).sum()) for linear in linears])

    losses = [measured()]
    rounds = 0
    while rounds < settings.max_rounds and losses[-1] > 0:
        rounds += 1
        if settings.train_codebooks:
            codebooks = solve_codebooks(linears, codebooks, settings.codebook_steps)
        losses.append(relative([_improve_linear(x, codebooks, settings) for x in linears]))
        on_round(rounds, losses[-1])
        if losses[-1] > losses[-2] * (1 - settings.relative_gain):
            break
    codebooks = _settle(linears, codebooks, settings)
    losses.append(measured())
    return Alternated(codebooks, rounds, losses)


def _improve_linear(
    linear: CodedLinear, codebooks: list[Tensor], settings: AlternationSettings
) -> float:
    """New scales, then new codes; the loss that they leave."""
    linear.code.scales = solve_scales(linear, codebooks)
    if settings.search == "feedback":
        found = search_codes(linear, codebooks, settings.beam)
        _keep_better_rows(linear, codebooks, found)
    return float(descend_codes(linear, codebooks).sum())


def _keep_better_rows(linear: CodedLinear, codebooks: list[Tensor], found: AdditiveCode) -> None:
    better = linear.row_loss(codebooks, found) < linear.row_loss(codebooks)
    for present, new in zip(linear.code.codes, found.codes, strict=True):
        present[better] = new[better]


def _settle(
    linears: list[CodedLinear], codebooks: list[Tensor], settings: AlternationSettings
) -> list[Tensor]:
    """Last codebooks for the last codes, rounded to storage; codes and scales follow."""
    if settings.train_codebooks:
        codebooks = solve_codebooks(linears, codebooks, settings.codebook_steps)
    codebooks = [round_codebook(codebook, settings.codebook_dtype) for codebook in codebooks]
    for linear in linears:
        linear.code.scales = solve_scales(linear, codebooks)
        descend_codes(linear, codebooks)
        linear.code.scales = storable_scales(solve_scales(linear, codebooks, may_be_zero=True))
    return codebooks


def storable_scales(scales: Tensor) -> Tensor:
    """Return row scales as float16 holds them.

    A row of zeros, or of weights that float16 cannot reach, gets scale zero.

    Raises:
        StorageRangeError: a scale is NaN or infinite.
    """
    return to_float16(scales, "a scale")
