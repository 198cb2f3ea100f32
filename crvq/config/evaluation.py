"""Evaluation: what is measured before and after quantization."""

from __future__ import annotations

from pydantic import Field

from crvq.config.strict import StrictModel
from crvq.config.text import TextConfig


class PerplexityConfig(TextConfig):
    """A text and the protocol by which its perplexity is taken."""

    context: int = Field(2048, ge=2, description="tokens in a window; windows do not overlap")
    max_windows: int | None = Field(
        None, ge=1, description="only the first so many windows (a quick look, and tables say so)"
    )


class EvalConfig(StrictModel):
    """The eval group: perplexity datasets by name."""

    perplexity: dict[str, PerplexityConfig] = Field(default_factory=dict)
