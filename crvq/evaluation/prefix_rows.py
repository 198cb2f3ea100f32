"""Several token sequences in one row: what they begin with stands there once.

The options of a question share the question. A row is the shared prefix followed by the branches,
one after the other; an attention mask lets each branch see the prefix and itself, and position
ids count on from the prefix in each branch. A model that heeds both computes what it would have
computed for each sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PREFIX = 0


@dataclass(frozen=True)
class PrefixRow:
    """A row, and where each of its sequences lies in it."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    """Of each token: 0 for the prefix, else the number of its branch from 1."""
    paths: list[list[int]]
    """For each sequence given, the places of its tokens in the row."""

    @property
    def branches(self) -> bool:
        """Whether there is more than one way through the row."""
        return bool(self.segments) and max(self.segments) > 1

    def __len__(self) -> int:
        return len(self.tokens)


def merge(sequences: Sequence[Sequence[int]]) -> PrefixRow:
    """Return one row for ``sequences``; equal ones share all of it.

    Args:
        sequences: token ids, each of at least one token.
    """
    shared = _shared_length(sequences)
    first = list(sequences[0][:shared])
    tokens, positions = first, list(range(shared))
    segments, paths = [_PREFIX] * shared, []
    found: dict[tuple[int, ...], list[int]] = {}
    for sequence in sequences:
        branch = tuple(sequence[shared:])
        if branch not in found:
            start = len(tokens)
            found[branch] = list(range(start, start + len(branch)))
            tokens.extend(branch)
            positions.extend(range(shared, len(sequence)))
            segments.extend([len([b for b in found if b])] * len(branch))
        paths.append([*range(shared), *found[branch]])
    return PrefixRow(tokens, positions, segments, paths)


@dataclass(frozen=True)
class RowBatch:
    """Rows padded at the right to one length L."""

    tokens: Tensor
    """(rows, L) token ids; 0 as padding."""
    positions: Tensor | None
    """(rows, L); None where no row branches."""
    mask: Tensor | None
    """(rows, 1, L, L), True where a query (third) sees a key (fourth); None as above."""

    def arguments(self) -> dict[str, Tensor]:
        """Return what a transformers model takes."""
        if self.mask is None or self.positions is None:
            return {"input_ids": self.tokens}
        return {
            "input_ids": self.tokens,
            "position_ids": self.positions,
            "attention_mask": self.mask,
        }


def batch(rows: Sequence[PrefixRow], device: torch.device) -> RowBatch:
    """Pad rows. Padding comes last, so no real token sees it; it sees what comes before it."""
    tokens = _padded([row.tokens for row in rows], device)
    if not any(row.branches for row in rows):
        return RowBatch(tokens, None, None)
    segments = _padded([row.segments for row in rows], device)
    queries, keys = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=device).tril()
    mask = causal & ((keys == _PREFIX) | (keys == queries))
    return RowBatch(tokens, _padded([row.positions for row in rows], device), mask[:, None])


def _padded(lists: Sequence[list[int]], device: torch.device) -> Tensor:
    length = max(len(values) for values in lists)
    padded = [[*values, *[0] * (length - len(values))] for values in lists]
    return torch.tensor(padded, dtype=torch.long, device=device)


def _shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all sequences have in common."""
    shared = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared
