"""Columns that most tables share: bits, perplexities, scores, time, memory."""

from __future__ import annotations

import pandas as pd

from crvq.report.finished_runs import ORIGIN
from crvq.report.paper_table import Column, unique_notes
from crvq.report.perplexity_columns import QUANTIZED, protocol_labels, protocols_by_settings
from crvq.report.settings import model_notes
from crvq.report.zero_shot_columns import AVERAGE, average_labels

BITS_NOTE = "Bits per weight: codes, codebooks, scales and permutations, all counted."
SEEDS_NOTE = "mean ± standard deviation over seeds."

BITS = Column("bits", "bits", "bits")
BITS_ALL = Column("bits_all", "bits, all weights", "bits")
SECONDS = Column("seconds", "time, min", "minutes")
MEMORY = Column("peak_memory_bytes", "peak memory", "memory")
GPU_MEMORY = Column("peak_gpu_memory_bytes", "peak GPU memory", "memory")
RELATIVE_LOSS = Column("relative_loss", "relative loss", "loss")
_TEXTS = {"wikitext2": "WikiText-2", "c4": "C4", "wikipedia": "Wikipedia"}
RUN_IDS = Column("run_ids", "runs", only_csv=True)
EXPERIMENT = Column("experiment", "experiment", only_csv=True)


def perplexity_columns(settings: pd.DataFrame) -> tuple[Column, ...]:
    """Return a column per text, in the protocol that most settings share; others are for CSV alone.

    A further protocol is printed only where rows would have no perplexity without it.
    """
    printed = _printed_protocols(settings)
    names = [_text(label) for label in printed]
    columns = [
        Column(
            QUANTIZED + label,
            name if names.index(name) == place else f"{name}, {label.split(', ')[1]}",
            "perplexity",
        )
        for place, (label, name) in enumerate(zip(printed, names, strict=True))
    ]
    rest = [label for label in protocol_labels(settings) if label not in printed]
    columns += [Column(QUANTIZED + one, one, "perplexity", only_csv=True) for one in rest]
    return tuple(columns)


def protocol_note(settings: pd.DataFrame) -> list[str]:
    """Return what the printed perplexities were measured on."""
    said = [f"{_text(label)}: {label.partition(', ')[2]}" for label in _printed_protocols(settings)]
    return [f"Perplexity (context, windows): {'; '.join(said)}."] if said else []


def _printed_protocols(settings: pd.DataFrame) -> list[str]:
    """Protocols with a printed column: WikiText-2, C4, then other texts."""
    if settings.empty:
        return []
    printed: dict[str, str] = {}
    more = []
    without = pd.Series(True, index=settings.index)
    for label, count in protocols_by_settings(settings).items():
        known = settings[QUANTIZED + label].notna()
        if count and _text(label) not in printed:
            printed[_text(label)] = label
        elif count and (known & without).any():
            more.append(label)
        else:
            continue
        without &= ~known
    order = [*_TEXTS.values(), *printed]
    return sorted(printed.values(), key=lambda label: order.index(_text(label))) + more


def _text(label: str) -> str:
    name = label.partition(", ")[0]
    return _TEXTS.get(name, name)


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
    return unique_notes([BITS_NOTE, *protocol_note(settings), *seeds, *model_notes(settings)])
