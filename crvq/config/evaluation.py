"""Evaluation: what is measured before and after quantization."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from crvq.config.strict import StrictModel
from crvq.config.text import TextConfig
from crvq.config.zero_shot import ZeroShotConfig

DEFAULT_PROMPTS = (
    "The capital of France is",
    "Water boils when",
    "Once upon a time, there was a little",
)


class PerplexityConfig(TextConfig):
    """A text and the protocol by which its perplexity is taken."""

    context: int = Field(2048, ge=2, description="tokens in a window")
    windows: Literal["consecutive", "drawn"] = Field(
        "consecutive",
        description="consecutive: one after the other through the joined text; drawn: at random "
        "from inside documents that are long enough (GPTQ's C4)",
    )
    max_windows: int | None = Field(
        None, ge=1, description="only so many windows (a quick look, and tables say so); null: all"
    )
    seed: int = Field(0, ge=0, description="drawn: seed of the draw")
    bos: Literal["auto", "none", "each_window"] = Field(
        "auto",
        description="none: as GPTQ's code and most papers, the text is cut as it is; each_window: "
        "BOS and context - 1 tokens of text; auto: each_window for Gemma, else none",
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="consecutive: tokens from one window's start to the next one's; only tokens "
        "past the overlap are scored. null: windows do not overlap",
    )

    @model_validator(mode="after")
    def _protocol_fits(self) -> Self:
        if self.windows == "drawn" and self.max_windows is None:
            raise ValueError("windows=drawn needs max_windows: papers draw max_windows=256")
        if self.stride is None:
            return self
        if self.windows == "drawn":
            raise ValueError(
                f"stride={self.stride} is for windows=consecutive: drawn windows have no order; "
                "set stride=null"
            )
        if self.stride > self.context:
            raise ValueError(
                f"stride={self.stride} is above context={self.context}: tokens in between would "
                f"never be scored; allowed: 1 to {self.context}, or null"
            )
        return self


class AgreementConfig(StrictModel):
    """How closely the quantized model's next-token distributions follow full precision."""

    dataset: str | None = Field(
        None, description="one of eval.perplexity, whose windows are used; null: the first"
    )
    max_windows: int | None = Field(
        4, ge=1, description="only the first so many of its windows; null: all"
    )


class GenerationConfig(StrictModel):
    """Greedy continuations of a few prompts, full precision and quantized side by side."""

    prompts: tuple[str, ...] = Field(DEFAULT_PROMPTS, min_length=1)
    max_new_tokens: int = Field(24, ge=1, description="tokens of a continuation")
    chat_template: bool = Field(
        False, description="put each prompt as a user's message through the model's chat template"
    )

    @model_validator(mode="after")
    def _prompts_are_there(self) -> Self:
        if not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts holds a blank one; leave it out")
        if len(set(self.prompts)) < len(self.prompts):
            raise ValueError("prompts holds the same one twice; leave it out")
        return self


class SpeedConfig(StrictModel):
    """Tokens per second of generation, one sequence at a time; timed, so it differs each time."""

    prompt_tokens: int = Field(512, ge=1, description="of the prompt, drawn at random")
    new_tokens: int = Field(32, ge=1, description="written after it, one pass each")
    repeats: int = Field(3, ge=1, description="the median of so many is taken")


class EvalConfig(StrictModel):
    """The eval group: perplexity datasets by name, and what else is measured."""

    perplexity: dict[str, PerplexityConfig] = Field(default_factory=dict)
    agreement: AgreementConfig | None = Field(
        None, description="KL divergence and top-1 agreement with full precision; null: none"
    )
    generation: GenerationConfig | None = Field(
        None, description="greedy continuations of prompts; null: none"
    )
    zero_shot: ZeroShotConfig | None = Field(None, description="lm-eval's tasks; null: none")
    kv_cache: Annotated[
        Literal["rotatekv2"] | None,
        BeforeValidator(lambda value: None if value == "none" else value),
    ] = Field(
        None,
        description="measure each perplexity again with keys and values in 2 bits; none: do not",
    )
    speed: SpeedConfig | None = Field(
        None, description="tokens per second and bytes of the linear layers; null: not measured"
    )

    @model_validator(mode="after")
    def _text_is_there(self) -> Self:
        if self.kv_cache is not None and not self.perplexity:
            raise ValueError(
                f"kv_cache={self.kv_cache} needs text: it measures each of eval.perplexity again, "
                "and there is none; choose eval=quick or another with text, or set "
                "eval.kv_cache=none"
            )
        if self.agreement is None:
            return self
        known = list(self.perplexity)
        if not known:
            raise ValueError(
                "agreement needs text: it uses the windows of one of eval.perplexity, and there "
                "is none; choose eval=quick or another with text, or set eval.agreement=null"
            )
        wanted = self.agreement.dataset
        if wanted is not None and wanted not in known:
            close = get_close_matches(wanted, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"agreement.dataset={wanted} is not among eval.perplexity{hint} "
                f"Known here: {', '.join(known)}"
            )
        return self

    @property
    def agreement_dataset(self) -> str | None:
        """The dataset whose windows `agreement` uses; None where it is not asked for."""
        if self.agreement is None:
            return None
        return self.agreement.dataset or next(iter(self.perplexity))
