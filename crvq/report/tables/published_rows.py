"""Published numbers next to ours, where they can be compared at all."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from crvq.report.finished_runs import CONFIG, quantized_runs
from crvq.report.layout_names import name_settings
from crvq.report.paper_table import Column, PaperTable
from crvq.report.perplexity_columns import (
    FULL_PRECISION,
    QUANTIZED,
    is_partial,
    protocol_labels,
)
from crvq.report.published import canonical_model, published_perplexities
from crvq.report.settings import over_seeds

_COLUMNS = (
    Column("model", "model"),
    Column("method", "method"),
    Column("bits_stated", "bits"),
    Column("dataset", "text"),
    Column("context_stated", "context"),
    Column("value", "perplexity", "perplexity"),
    Column("relative", "times full", "perplexity"),
    Column("source", "source"),
    Column("confidence", "confidence"),
    Column("where", "where", only_csv=True),
    Column("note", "note", only_csv=True),
    Column("run_ids", "runs", only_csv=True),
)


def comparison_table(runs: pd.DataFrame, published: pd.DataFrame) -> PaperTable:
    """Our rows and the published ones of the same model, text and context; by bits.

    A model of ours without published numbers gets no rows, and the notes say so: perplexities of
    different models, texts or contexts cannot be compared. Nor can those of a part of the text,
    which papers read in full: such rows of ours are left out, and the notes name them.

    Args:
        runs: of :func:`crvq.report.finished_runs.finished_runs`.
        published: of :func:`crvq.report.published.read_published`.
    """
    settings = over_seeds(quantized_runs(runs))
    ours = _our_rows(settings)
    theirs = published_perplexities(published)
    theirs = theirs.assign(key=theirs["model"].map(canonical_model))
    frames, notes = [], []
    for (model, dataset, context), rows in ours.groupby(["model", "dataset", "context"]):
        same_model = theirs[theirs["key"] == canonical_model(str(model))]
        same_text = same_model[same_model["dataset"] == dataset]
        same = same_text[(same_text["context"] == int(str(context))).fillna(False)]
        whole = rows[~rows["partial"]]
        if len(same) and len(whole):
            frames += [whole.assign(key=canonical_model(str(model))), same]
        elif len(same) == 0:
            notes.append(_why_not(str(model), str(dataset), int(str(context)), same_model, theirs))
        if len(same) and rows["partial"].any():
            notes += [
                f"{model} on {dataset} at {protocol}: left out, since published numbers are of the "
                "whole text."
                for protocol in dict.fromkeys(rows.loc[rows["partial"], "context_stated"])
            ]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if not frame.empty:
        by = ["key", "dataset", "context", "bits"]
        frame = frame.sort_values(by, kind="stable", ignore_index=True)
    return PaperTable(
        name="published_comparison",
        title="Our records next to published numbers of the same model, text and context",
        frame=frame,
        columns=_COLUMNS,
        notes=tuple(dict.fromkeys(notes)),
        section="context",
        made_by="python run.py model=llama-2-7b eval=papers",
    )


def peers_table(
    published: pd.DataFrame,
    model: str = "LLaMA2-7B",
    dataset: str = "wikitext2",
    most_bits: float = 2.3,
) -> PaperTable:
    """Return what papers print near one bit; one row per source, since sources differ by up to 2x.

    Args:
        published: of :func:`crvq.report.published.read_published`.
        model: in any spelling.
        dataset: as the published table names it.
        most_bits: with masks and scales that a source states.
    """
    rows = published_perplexities(published)
    alike = rows["model"].map(canonical_model) == canonical_model(model)
    rows = rows[alike & (rows["dataset"] == dataset) & (rows["bits"] <= most_bits)]
    return PaperTable(
        name="published_peers",
        title=f"Published perplexities up to {most_bits:g} bits: {model}, {dataset}",
        frame=rows.sort_values(["bits", "value"], kind="stable", ignore_index=True),
        columns=tuple(
            replace(column, only_csv=True) if column.key in {"model", "dataset"} else column
            for column in _COLUMNS
        ),
        notes=(
            "Bits as the sources state them, often without masks and scales: not counted as ours. "
            "Compare only rows of equal context.",
        ),
    )


def _our_rows(settings: pd.DataFrame) -> pd.DataFrame:
    rows = []
    names = name_settings(settings)
    for row, name in zip(settings.to_dict("records"), names, strict=True):
        for label in protocol_labels(settings):
            value, full = row[QUANTIZED + label], row[FULL_PRECISION + label]
            repo = row["settings"].get(f"{CONFIG}model.repo")
            dataset, context, *_ = label.split(", ")
            if value != value:
                continue
            rows.append(
                {
                    "model": repo if isinstance(repo, str) else row["model"],
                    "method": f"{name} (ours)",
                    "bits": row["bits"],
                    "bits_stated": f"{row['bits']:.3f}",
                    "dataset": dataset,
                    "context": int(context),
                    "context_stated": ", ".join(label.split(", ")[1:]),
                    "partial": is_partial(label),
                    "value": value,
                    "relative": value / full,
                    "source": "this repository",
                    "confidence": "measured",
                    "run_ids": row["run_ids"],
                }
            )
    columns = ["model", "dataset", "context", "partial"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _why_not(
    model: str, dataset: str, context: int, same_model: pd.DataFrame, theirs: pd.DataFrame
) -> str:
    if same_model.empty:
        models = ", ".join(sorted(set(theirs["model"])))
        return (
            f"{model}: no published number is of this model, so none can be compared with ours; "
            f"there are numbers of {models}."
        )
    known = same_model[["dataset", "context_stated"]].drop_duplicates()
    protocols = "; ".join(f"{row.dataset} at {row.context_stated}" for row in known.itertuples())
    return (
        f"{model} on {dataset} at {context}: published numbers of this model are of other texts "
        f"or contexts ({protocols})."
    )
