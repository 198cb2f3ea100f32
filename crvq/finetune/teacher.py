"""What the full-precision model says of each window, kept on disk before it is quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from crvq.errors import QuantizationError
from crvq.evaluation.hidden_states import split_head
from crvq.files.digests import (
    DamagedFileError,
    check_digested_tensors,
    load_digested_tensors,
    save_digested_tensors,
)
from crvq.finetune.losses import POSITIONS, Divergence, Head, exact_kl, top_k_kl
from crvq.models.precision import forward_precision
from crvq.sources.cache import writing_cache

TeacherKind = Literal["hidden_states", "top_k"]


@dataclass(frozen=True)
class Student:
    """A model as distillation sees it: a body, and a frozen head on top of it."""

    body: Callable[[Tensor], Tensor]
    """From tokens ``(windows, length)`` to states ``(windows, length, n)``."""
    head: Head
    """From states ``(positions, n)`` to logits."""


def student_of(model: PreTrainedModel, tokens: Tensor) -> Student:
    """The model taken apart; where that is impossible its logits are the states.

    Args:
        model: to be taken apart.
        tokens: to try it on, ``(1, length)``.
    """
    split = split_head(model, tokens)
    if split is not None:
        return Student(split.hidden_states, split.head)
    return Student(lambda tokens: model(input_ids=tokens, use_cache=False).logits, lambda x: x)


class Teacher:
    """The full-precision model's predictions for windows, one file per window.

    ``hidden_states`` keeps the last hidden states in the type of forward passes; the head, which
    stays in full precision, turns them into logits again: exact. ``top_k`` keeps the k likeliest
    tokens with their log-probabilities: 8 k bytes a token, and no product with the head.

    Args:
        folder: for the files, named for all that they depend on.
        kind: which of the two.
        top_k: k.
        device: where they are wanted.
    """

    def __init__(self, folder: Path, kind: TeacherKind, top_k: int, device: torch.device) -> None:
        self._folder, self._kind, self._top_k = folder, kind, top_k
        self._device = device

    def missing(self, windows: Tensor) -> list[int]:
        """Return the windows without an intact file; each file is checked against its digest.

        Args:
            windows: all, ``(windows, length)``.
        """
        return [index for index in range(len(windows)) if not self._is_intact(index)]

    @torch.no_grad()
    def learn(
        self, student: Student, windows: Tensor, index: int, activation_dtype: torch.dtype
    ) -> None:
        """Ask the model, still in full precision, about a window, and keep what it says.

        Args:
            student: the model taken apart.
            windows: all, ``(windows, length)``.
            index: which one.
            activation_dtype: type of forward passes.
        """
        with forward_precision(self._device, activation_dtype):
            states = student.body(windows[index : index + 1].to(self._device))[0]
            if self._kind == "hidden_states":
                kept = {"states": states.to(activation_dtype)}
            else:
                parts = [self._likeliest(student.head(part)) for part in states.split(POSITIONS)]
                kept = {
                    "log_probabilities": torch.cat([values for values, _ in parts]),
                    "tokens": torch.cat([tokens.int() for _, tokens in parts]),
                }
        with writing_cache(self._file(index)):
            save_digested_tensors(self._file(index), kept, self._labels(index))

    def _likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        known = logits.float().log_softmax(-1)
        values, tokens = known.topk(min(self._top_k, known.shape[-1]))
        return values, tokens

    def divergence(self, indices: list[int], head: Head) -> Divergence:
        """KL from this teacher for the positions of some windows behind one another."""
        known = [self._read(index) for index in indices]
        if self._kind == "hidden_states":
            states = torch.cat([one["states"] for one in known])

            def exact(part: slice, logits: Tensor) -> Tensor:
                with torch.no_grad():
                    expected = head(states[part])
                return exact_kl(expected, logits)

            return exact
        values = torch.cat([one["log_probabilities"] for one in known])
        tokens = torch.cat([one["tokens"] for one in known]).long()
        return lambda part, logits: top_k_kl(values[part], tokens[part], logits)

    def _read(self, index: int) -> dict[str, Tensor]:
        file = self._file(index)
        try:
            tensors, labels = load_digested_tensors(file)
            if labels != self._labels(index):
                raise DamagedFileError(f"it is that of {labels}")
        except (DamagedFileError, OSError) as error:
            file.unlink(missing_ok=True)
            raise QuantizationError(
                f"the full-precision model's predictions for window {index} are damaged or gone "
                f"({file}: {error}), and the model is quantized by now. Run the same command "
                "again: they are computed again, and training resumes from its saved state"
            ) from error
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _is_intact(self, index: int) -> bool:
        try:
            check_digested_tensors(self._file(index))
            with safe_open(self._file(index), "pt") as file:
                labels = dict(file.metadata() or {})
        except (DamagedFileError, SafetensorError, OSError):
            return False
        labels.pop("sha256", None)
        return labels == self._labels(index)

    def _labels(self, index: int) -> dict[str, str]:
        """For the file's header: a file that was copied over another one is not taken for it."""
        return {"window": str(index), "kind": self._kind}

    def _file(self, index: int) -> Path:
        return self._folder / f"{index:06d}.safetensors"
