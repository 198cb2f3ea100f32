"""Everything that a run's ``eval`` asks for: the one place where measurements are called.

A new kind is a `Measure` in a file of its own and an entry in `measures`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from crvq.config import EvalConfig
from crvq.models.precision import measuring_precision
from crvq.pipeline.measure_agreement import AgreementMeasure
from crvq.pipeline.measure_generation import GenerationMeasure
from crvq.pipeline.measure_perplexity import PerplexityMeasure
from crvq.pipeline.measure_zero_shot import ZeroShotMeasure
from crvq.pipeline.subject import Measure, Subject


def measures(config: EvalConfig, subject: Subject) -> list[Measure]:
    """The measurements that ``config`` asks for.

    Raises:
        ConfigError: one that cannot be made on this model.
    """
    chosen: list[Measure] = [PerplexityMeasure(subject, config.perplexity)]
    if config.agreement is not None and config.agreement_dataset is not None:
        chosen.append(
            AgreementMeasure(subject, config.agreement_dataset, config.agreement.max_windows)
        )
    if config.generation is not None:
        chosen.append(GenerationMeasure(subject, config.generation))
    if config.zero_shot is not None:
        chosen.append(ZeroShotMeasure(subject, config.zero_shot))
    return chosen


class Evaluation:
    """All measurements of a run, before and after its model is quantized.

    Args:
        config: the eval group.
        subject: the model and what goes with it.
        quantizes: whether the model will be quantized: only then full precision's answers are
            kept for `AgreementMeasure`.

    Raises:
        ConfigError: a measurement that cannot be made on this model.
    """

    def __init__(self, config: EvalConfig, subject: Subject, quantizes: bool = True) -> None:
        if not quantizes:
            config = config.model_copy(update={"agreement": None})
        self._subject = subject
        self._measures = measures(config, subject)

    def full_precision(self) -> None:
        """Measure and record the model before quantization."""
        with self._precision():
            for measure in self._measures:
                measure.full_precision()

    def quantized(self) -> None:
        """Measure and record the quantized model."""
        with self._precision():
            for measure in self._measures:
                measure.quantized()

    def _precision(self) -> AbstractContextManager[None]:
        """Weights are rounded once for all measurements."""
        subject = self._subject
        return measuring_precision(subject.model, subject.device, subject.activation_dtype)
