"""From a linear to what the solver works on: padding, importance, order, critical groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearInput
from crvq.methods.notes import dead_channels_notes
from crvq.vq.additive_code import CodedLinear, coded_linear
from crvq.vq.channel_order import ReorderPolicy, channel_order, critical_groups
from crvq.vq.hessian import Hessian
from crvq.vq.importance import channel_importance, row_scales

_TRIAL_BITS = 8


@dataclass
class CodedLayout:
    """A linear laid out for coding."""

    source: LinearInput
    linear: CodedLinear
    order: Tensor
    """π, ``(padded in,)``."""
    stored_positions: int
    """Leading positions of π that must be stored."""
    critical: int
    """Critical groups."""
    notes: list[str] = field(default_factory=list)

    def critical_in_features(self) -> list[int]:
        """Return the channels of critical groups, padding left out, in the order of coding."""
        leading = self.order[: self.critical * self.linear.group_size].tolist()
        return [channel for channel in leading if channel < self.source.weight.shape[1]]


def padded_features(in_features: int, group_size: int) -> int:
    """in_features rounded up to whole groups."""
    return -(-in_features // group_size) * group_size


def asked_critical_groups(in_features: int, params: CrvqParams) -> int:
    """Critical groups of a linear with so many in_features; 0 without extended codebooks."""
    if params.extended_codebooks == 0:
        return 0
    return critical_groups(
        in_features, params.group_size, params.critical_ratio, params.critical_rounding
    )


def stored_positions(policy: ReorderPolicy, positions: int, critical: int) -> int:
    """Leading positions of π that must be stored, of so many and with so many critical ones."""
    return {"none": 0, "critical_first": critical, "sorted": positions, "stratified": positions}[
        policy
    ]


def lay_out(
    source: LinearInput, params: CrvqParams, generator: torch.Generator, hessian: Hessian
) -> CodedLayout:
    """Pad, rank and reorder the channels of a linear (arXiv 2412.09282, section 3, steps 1-2).

    Args:
        source: the linear.
        params: CRVQ's parameters.
        generator: for the trial codebook and random importance.
        hessian: of the input, already padded.
    """
    d, notes = params.group_size, []
    in_features = source.weight.shape[1]
    padding = padded_features(in_features, d) - in_features
    weight = source.weight
    if padding:
        weight = torch.nn.functional.pad(weight, (0, padding))
        notes.append(f"{padding} of {in_features + padding} channels are padding")
    notes += dead_channels_notes(source.hessian.dead_channels)
    groups = asked_critical_groups(in_features, params)
    # A ranking of channels needs no large codebook, and k-means with 2^16 entries takes minutes.
    trial_entries = 2 ** min(params.codebook_bits, _TRIAL_BITS)
    importance = channel_importance(params.importance, weight, hessian, d, trial_entries, generator)
    # Padding is never important, whatever an ablation's importance says.
    importance[in_features:] = -1.0
    energy = hessian.inv_diag_weight * weight.square().mean(0)
    energy[in_features:] = -1.0
    order = channel_order(importance, energy, d, groups, params.reorder)
    # Extended codebooks may cover nothing here and something in a linear that shares them.
    coverage = [weight.shape[1] // d] + [groups] * params.extended_codebooks
    linear = coded_linear(weight, hessian, order, coverage, row_scales(weight))
    stored = stored_positions(params.reorder, len(order), groups * d)
    return CodedLayout(source, linear, order, stored, groups, notes)
