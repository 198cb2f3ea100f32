"""What quantization costs: time by stage, memory, and the size of what comes out."""

from __future__ import annotations

import pandas as pd

from crvq.report.finished_runs import DEVICE, of_experiments, quantized_runs
from crvq.report.layout_names import name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.settings import over_seeds
from crvq.report.tables.main_table import EXPERIMENTS
from crvq.report.tables.outcome_columns import (
    BITS,
    BITS_ALL,
    EXPERIMENT,
    GPU_MEMORY,
    MEMORY,
    RUN_IDS,
    SECONDS,
    model_columns,
    notes,
    origin_columns,
)
from crvq.weights.bits import BIT_PARTS

TIMES_NOTE = (
    "Minutes by stage. Times of other devices or numbers of threads cannot be compared, nor those "
    "of a machine that other work shared: read them by order of magnitude."
)
_STAGES = "seconds."


def time_table(runs: pd.DataFrame) -> PaperTable:
    """Seconds by stage, peak memory and the machine, by model, device and solver time.

    Args:
        runs: of :func:`crvq.report.tables.loaded_runs.load_timed_runs`.
    """
    settings = _labelled(runs)
    stages = [str(name) for name in settings if str(name).startswith(_STAGES)]
    stages = [name for name in stages if not name.endswith(" std")]
    if "seconds.quantize" in settings:
        settings = settings.sort_values(["model", DEVICE, "seconds.quantize"], ignore_index=True)
    columns = (
        *model_columns(settings),
        Column("label", "run"),
        *(Column(name, name.removeprefix(_STAGES), "minutes") for name in stages),
        SECONDS,
        MEMORY,
        GPU_MEMORY,
        Column(DEVICE, "device"),
        Column("cpu", "cpu", only_csv=True),
        Column("threads", "threads", "integer"),
        *origin_columns(settings),
        EXPERIMENT,
        RUN_IDS,
    )
    return PaperTable(
        name="quantization_time",
        title="Quantization time",
        frame=settings,
        columns=columns,
        notes=(TIMES_NOTE, *notes(settings)[1:]) if len(settings) else (),
        section="model",
        made_by="python run.py +experiments=quantization_time",
    )


def size_table(runs: pd.DataFrame) -> PaperTable:
    """Bits per quantized weight by part, and the size of the whole model, smallest first.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
    """
    settings = _labelled(of_experiments(runs, EXPERIMENTS))
    if not settings.empty:
        shares = {
            f"part {part}": settings[f"bits.{part}"] / settings["bits.quantized_weights"]
            for part in BIT_PARTS
        }
        settings = settings.assign(**shares)
        settings = settings.sort_values(["model", "bits"], ignore_index=True)
    columns = (
        *model_columns(settings),
        Column("label", "run"),
        *(Column(f"part {part}", part, "bits") for part in BIT_PARTS),
        BITS,
        BITS_ALL,
        Column("packed_bytes", "packed weights", "memory"),
        Column("model_bytes", "whole model", "memory"),
        *origin_columns(settings),
        EXPERIMENT,
        RUN_IDS,
    )
    return PaperTable(
        name="model_size",
        title="Size by part: bits per quantized weight, and bytes",
        frame=settings,
        columns=columns,
        notes=notes(settings),
        section="model",
        made_by="python run.py",
    )


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    settings = over_seeds(quantized_runs(runs))
    if not settings.empty:
        settings = settings.assign(label=name_settings(settings))
    return settings
