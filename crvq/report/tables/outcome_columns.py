"""Columns that most tables share: bits, perplexities, scores, time, memory."""

from __future__ import annotations

import pandas as pd

from crvq.report.finished_runs import ORIGIN
from crvq.report.paper_table import Column, unique_notes
from crvq.report.perplexity_columns import QUANTIZED, protocol_labels
from crvq.report.settings import model_notes
from crvq.report.zero_shot_columns import AVERAGE, average_labels

BITS_NOTE = "Bits per weight: codes, codebooks, scales and permutations, all counted."
SEEDS_NOTE = "mean ± standard deviation over seeds."

BITS = Column("bits", "bits", "bits")
BITS_ALL = Column("bits_all", "bits, all weights", "bits")
SECONDS = Column("seconds", "time", "duration")
MEMORY = Column("peak_memory_bytes", "peak memory", "memory")
GPU_MEMORY = Column("peak_gpu_memory_bytes", "peak GPU memory", "memory")
RELATIVE_LOSS = Column("relative_loss", "relative loss", "loss")
RUN_IDS = Column("run_ids", "runs", only_csv=True)
EXPERIMENT = Column("experiment", "experiment", only_csv=True)


def perplexity_columns(settings: pd.DataFrame) -> tuple[Column, ...]:
    """Return a column a protocol."""
    return tuple(
        Column(QUANTIZED + label, f"perplexity: {label}", "perplexity")
        for label in protocol_labels(settings)
    )


def average_columns(settings: pd.DataFrame) -> tuple[Column, ...]:
    """Return a zero-shot average for every set of tasks."""
    return tuple(
        Column(AVERAGE + name, AVERAGE + name, "accuracy") for name in average_labels(settings)
    )


def model_columns(settings: pd.DataFrame) -> tuple[Column, ...]:
    """Return the model, if there is more than one."""
    several = "model" in settings and settings["model"].nunique() > 1
    return (Column("model", "model", only_csv=not several),)


def origin_columns(settings: pd.DataFrame) -> tuple[Column, ...]:
    """Return where the rows come from; printed where shipped records and own ones share a table."""
    several = ORIGIN in settings and settings[ORIGIN].dropna().astype(bool).nunique() > 1
    return (Column(ORIGIN, "computed", only_csv=not several),)


def notes(settings: pd.DataFrame) -> tuple[str, ...]:
    """Return what must be known of bits, seeds and models."""
    if settings.empty:
        return ()
    seeds = [f"{SEEDS_NOTE[:1].upper()}{SEEDS_NOTE[1:]}"] if (settings["runs"] > 1).any() else []
    return unique_notes([BITS_NOTE, *seeds, *model_notes(settings)])
