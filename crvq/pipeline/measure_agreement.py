"""Agreement of the quantized model with full precision."""

from __future__ import annotations

import time

import torch

from crvq.evaluation.agreement import agreement, final_hidden_states
from crvq.pipeline.subject import Subject


class AgreementMeasure:
    """KL divergence and top-1 agreement on windows of one dataset.

    Args:
        subject: what is measured on; its texts hold ``dataset``.
        dataset: whose windows are used.
        max_windows: only the first so many; None: all.
    """

    def __init__(self, subject: Subject, dataset: str, max_windows: int | None) -> None:
        self._subject, self._dataset = subject, dataset
        self._text = subject.texts[dataset]
        self._windows = self._text.windows[:max_windows]
        self._reference: list[torch.Tensor] | None = None

    def full_precision(self) -> None:
        """Keep the last hidden states; nothing is recorded yet."""
        subject = self._subject
        stage = f"full precision's answers on {self._dataset}"
        subject.listener.stage_started(stage, len(self._windows))
        begun = time.perf_counter()
        self._reference = final_hidden_states(
            subject.model,
            self._windows,
            subject.device,
            subject.activation_dtype,
            on_window=lambda: subject.listener.stage_advanced(stage),
        )
        subject.listener.stage_finished(stage, time.perf_counter() - begun)

    def quantized(self) -> None:
        """Compare with the states kept, and let them go."""
        assert self._reference is not None
        subject = self._subject
        stage = f"agreement with full precision on {self._dataset}"
        subject.listener.stage_started(stage, len(self._windows))
        begun = time.perf_counter()
        result = agreement(
            subject.model,
            self._windows,
            self._reference,
            subject.device,
            subject.activation_dtype,
            on_window=lambda: subject.listener.stage_advanced(stage),
        )
        self._reference = None
        subject.listener.stage_finished(stage, time.perf_counter() - begun)
        subject.record.set_agreement(
            self._dataset,
            kl_divergence=result.kl_divergence,
            top1_agreement=result.top1_agreement,
            tokens=result.tokens,
            context=result.context,
            windows=result.windows,
            protocol=f"{self._text.description}; first {result.windows} windows of "
            f"eval.perplexity.{self._dataset}, KL(full precision || quantized) in nats a token",
        )
