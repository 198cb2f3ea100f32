"""lm-eval's Hugging Face model with less work: logits only where a continuation is predicted, and
what the options of a question share is computed once.

lm-eval computes log-probabilities of the whole vocabulary at every position of every option, and
the question again for each option. Tokenization, generation and rolling windows stay lm-eval's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crvq.evaluation.finite import nonfinite_error
from crvq.evaluation.hidden_states import Head, HeadSplit, split_head
from crvq.evaluation.prefix_rows import PrefixRow, RowBatch, batch, merge
from crvq.evaluation.prefix_support import sees_prefix_rows
from crvq.models.precision import forward_precision

POSITIONS = 512
"""Positions whose logits are held at once."""

_PADDED_FROM = 0.85
"""Rows shorter than this part of the longest one go to the next batch ..."""
_SMALL_BATCH = 512
"""... unless the batch has fewer tokens than this, which would take as long as so many."""

Encoded = tuple[Any, list[int], list[int]]
"""What lm-eval makes of a request: its two strings (or None), context and continuation tokens."""


@dataclass(frozen=True)
class _Question:
    """Requests that share a row, by their places among all requests."""

    row: PrefixRow
    requests: tuple[int, ...]
    sorted_by: tuple[int, ...]


@dataclass
class Work:
    """What was computed so far, for tokens per second."""

    requests: int = 0
    tokens: int = 0
    """Tokens of all requests, contexts included, as if each option were computed by itself."""
    computed_tokens: int = 0
    """Tokens that went through the model, padding not counted."""
    truncated: int = 0
    """Requests longer than the model's context; as in lm-eval, their left part is cut off."""


class ContinuationLM(HFLM):
    """Scores continuations; the same numbers as `HFLM` up to rounding."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        activation_dtype: torch.dtype,
        share_context: bool = True,
    ) -> None:
        """Wrap a model that is already loaded.

        Args:
            model: on its device, in eval mode.
            tokenizer: its tokenizer; a copy is used, since lm-eval may give it a padding token.
            batch_size: rows of a forward pass.
            activation_dtype: float32, or bfloat16 by autocast; log-softmax is taken in float32.
            share_context: options of a question in one row, where the model can do that; else
                lm-eval's own batches.
        """
        low = activation_dtype == torch.bfloat16
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=batch_size,
            mixed_precision_dtype=activation_dtype if low else None,
            prefix_token_id=_stand_in_prefix(tokenizer),
        )
        self.work = Work()
        self.shares_context: bool | None = None if share_context else False
        self._activation_dtype = activation_dtype
        self._asked: list[tuple[str | None, int | None]] = []
        self.listen(lambda _count: None, lambda _count: None)

    def listen(self, on_start: Callable[[int], None], on_requests: Callable[[int], None]) -> None:
        """Say who hears how many requests there are, and how many more are done."""
        self._on_start, self._on_requests = on_start, on_requests

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would give it."""
        self._asked = [(request.task_name, request.doc_id) for request in requests]
        self._on_start(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """As in lm-eval; no progress bar."""
        self._asked = []
        self._on_start(len(requests))  # steps are windows, of which a text may have several
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """As in lm-eval; no progress bar."""
        self._on_start(len(requests))
        texts = super().generate_until(requests, disable_tqdm=True)
        self._on_requests(len(requests))
        return texts

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Encoded],
        disable_tqdm: bool = True,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        inputs = [self._input(context, continuation) for _, context, continuation in requests]
        device, size = self.model.device, override_bs or int(self.batch_size)
        results: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        with torch.inference_mode(), forward_precision(device, self._activation_dtype):
            split = split_head(self.model, torch.tensor([max(inputs, key=len)], device=device))
            questions = self._questions(inputs, requests, split)
            for chunk in self._chunks(questions, size):
                rows = batch([question.row for question in chunk], device)
                wanted = [
                    (index, place, path[-len(requests[place][2]) :], requests[place][2])
                    for index, question in enumerate(chunk)
                    for place, path in zip(question.requests, question.row.paths, strict=True)
                ]
                for place, score in self._scores(split, rows, wanted):
                    results[place] = score
                self.work.computed_tokens += sum(len(question.row) for question in chunk)
                self._on_requests(len(wanted))
        self.work.requests += len(requests)
        self.work.tokens += sum(map(len, inputs))
        return results

    def _input(self, context: list[int], continuation: list[int]) -> list[int]:
        """Return all but the last token, cut at the left where the model's context is too short."""
        whole = [*context, *continuation]
        if len(whole) > self.max_length + 1:
            self.work.truncated += 1
        return whole[-(self.max_length + 1) :][:-1]

    def _questions(
        self, inputs: Sequence[list[int]], requests: Sequence[Encoded], split: HeadSplit | None
    ) -> list[_Question]:
        """Rows, longest first."""
        asked = self._asked if len(self._asked) == len(inputs) else []
        if asked and self.shares_context is not False:
            together = [
                tuple(index for index, _ in group)
                for _, group in groupby(enumerate(asked), key=lambda pair: pair[1])
            ]
            questions = [
                _Question(row, places, (-len(row), *row.tokens))
                for places in together
                for row in [merge([inputs[place] for place in places])]
            ]
            if self._can_share(questions, split):
                return sorted(questions, key=lambda question: question.sorted_by)
        equal: dict[tuple[int, ...], list[int]] = {}
        for place, tokens in enumerate(inputs):
            equal.setdefault(tuple(tokens), []).append(place)
        return sorted(
            (self._alone(inputs, requests, places) for places in equal.values()),
            key=lambda question: question.sorted_by,
        )

    def _chunks(self, questions: Sequence[_Question], size: int) -> Iterator[list[_Question]]:
        """Batches of at most ``size`` rows: lm-eval's if asked for, else with little padding."""
        free = self.shares_context is not False
        chunk: list[_Question] = []
        for question in questions:
            wasteful = len(question.row) < _PADDED_FROM * len(chunk[0].row) if chunk else False
            small = sum(len(other.row) for other in chunk) < _SMALL_BATCH
            if len(chunk) == size or (free and wasteful and not small):
                yield chunk
                chunk = []
            chunk.append(question)
        if chunk:
            yield chunk

    def _alone(
        self, inputs: Sequence[list[int]], requests: Sequence[Encoded], places: list[int]
    ) -> _Question:
        """A row for one input, sorted as lm-eval sorts it: with the last token that it predicts."""
        longest = max(places, key=lambda place: len(requests[place][2]))
        row = merge([inputs[place] for place in places])
        key = (-len(row), *row.tokens, requests[longest][2][-1])
        return _Question(row, tuple(places), key)

    def _can_share(self, questions: Sequence[_Question], split: HeadSplit | None) -> bool:
        """Whether the model heeds masks and positions: tried once, on a row that branches."""
        branching = next((q.row for q in questions if q.row.branches), None)
        if self.shares_context is None and branching is not None:
            self.shares_context = sees_prefix_rows(
                self.model, split, branching, self._activation_dtype
            )
        return branching is None or bool(self.shares_context)

    def _scores(
        self,
        split: HeadSplit | None,
        rows: RowBatch,
        wanted: Sequence[tuple[int, int, list[int], list[int]]],
    ) -> Iterable[tuple[int, tuple[float, bool]]]:
        """(place, (log-likelihood, greedy)) of requests given as (row, place, path, tokens)."""
        states, head = _states(self.model, split, rows)
        flat = [(row, at) for row, _, path, _ in wanted for at in path]
        places = {where: index for index, where in enumerate(sorted(set(flat)))}
        chosen = torch.tensor(list(places), device=states.device)
        states = states[chosen[:, 0], chosen[:, 1]]
        sources = torch.tensor([places[where] for where in flat], device=states.device)
        targets = torch.tensor([t for *_, tokens in wanted for t in tokens], device=states.device)
        scores = torch.empty(len(flat), device=states.device)
        greedy = torch.empty(len(flat), dtype=torch.bool, device=states.device)
        for start in range(0, len(states), POSITIONS):
            logits = head(states[start : start + POSITIONS]).float()
            here = ((sources >= start) & (sources < start + POSITIONS)).nonzero()[:, 0]
            local, tokens = sources[here] - start, targets[here]
            scores[here] = functional.log_softmax(logits, dim=-1)[local, tokens]
            greedy[here] = logits.argmax(dim=-1)[local] == tokens
        lengths = [len(tokens) for *_, tokens in wanted]
        for (row, place, _, _), score, same in zip(
            wanted, scores.cpu().split(lengths), greedy.cpu().split(lengths), strict=True
        ):
            total = float(score.sum())
            if not math.isfinite(total):
                where = f"an option of {self._name(place)}"
                raise nonfinite_error(
                    "zero-shot log-likelihood", self.model, rows.tokens[row : row + 1], where
                )
            yield place, (total, bool(same.all()))

    def _name(self, place: int) -> str:
        task, question = self._asked[place] if place < len(self._asked) else (None, place)
        return f"question {question} of {task}" if task else f"request {question}"


def _stand_in_prefix(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return what an empty context becomes where a tokenizer begins and ends texts with nothing."""
    if tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None:
        return None  # lm-eval takes these
    unknown = tokenizer.unk_token_id
    return unknown if isinstance(unknown, int) else 0


def _states(model: PreTrainedModel, split: HeadSplit | None, rows: RowBatch) -> tuple[Tensor, Head]:
    """Hidden states (rows, L, hidden) and the head for them; logits where there is no split."""
    if split is None:
        return model(**rows.arguments(), use_cache=False).logits, nn.Identity()
    return split.body(**rows.arguments(), use_cache=False).last_hidden_state, split.head
