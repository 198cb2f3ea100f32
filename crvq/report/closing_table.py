"""The table that closes a run or a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.entropy_note import entropy_note
from crvq.report.number_format import duration, perplexity
from crvq.report.records import origin
from crvq.report.run_labels import Record, run_labels

_UNKNOWN = "-"
_LONG_HEADS = 2
"""So many datasets have heads that say all; more would leave no room on a terminal."""
_DatasetColumn = tuple[str, int, int, str | None]
"""Dataset, context, tokens, and if it was not the whole text which windows (`8 drawn`)."""


def closing_table(records: Sequence[Record]) -> Table:
    """Return a table of runs: full precision first, then each run in the order given.

    A run is named by the values that set it apart, with what was used where it was not what was
    asked (:func:`run_labels`). Columns: bits per weight with everything counted, over quantized
    weights and over all of them; perplexity on every dataset (a column for every protocol, as
    its head says: numbers of different contexts or texts never share one); time. Below the
    table: why runs failed, and what must be known of the models.

    Args:
        records: as :func:`crvq.tracking.record_schema.read_record` gives them.
    """
    datasets = _dataset_columns(records)
    heads = _dataset_heads(datasets)
    labels = run_labels(records)
    table = Table(
        title=_title(records),
        title_justify="left",
        caption=_caption(records, labels, dict(zip(datasets, heads, strict=True))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold", min_width=14)
    table.add_column("bits", justify="right", no_wrap=True)
    table.add_column("of all\nweights", justify="right", no_wrap=True)
    for head in heads:
        table.add_column(escape(head), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in _full_precision_rows(records, datasets):
        cells = [_number(row["values"].get(column), perplexity) for column in datasets]
        bits = _number(row["bits"], lambda value: f"{value:.2f}")
        table.add_row(row["name"], bits, bits, *cells, "")
    table.add_section()
    for record, label in zip(records, labels, strict=True):
        table.add_row(*_run_cells(record, label, datasets))
    return table


def reused_note(record: Record) -> str:
    """Return where and when a record that was reused had been computed."""
    return f"reused: {origin(record)}"


def status_line(record: Record) -> str:
    """Why a run has no (full) results, in one line; empty for a complete run."""
    if record.get("status") == "stopped":
        return "stopped: the same command resumes after the last completed block"
    if record.get("status") == "failed":
        error = record.get("error") or {}
        text = " ".join(str(error.get("message", "")).split())
        return f"failed: {error.get('type', 'error')}: {text}"
    return "" if record.get("status") == "complete" else "not finished"


def _run_cells(record: Record, label: str, datasets: Sequence[_DatasetColumn]) -> list[str]:
    bits = record.get("bits") or {}
    status = status_line(record).partition(":")[0]
    name = escape(label) + (f" [red]{status}[/red]" if status else "")
    name += f"\n[dim]{escape(reused_note(record))}[/dim]" if record.get("reused") else ""
    results = {_column(record, name): entry for name, entry in _perplexities(record).items()}
    return [
        name,
        _number(bits.get("average_quantized_weights"), lambda value: f"{value:.3f}"),
        _number(bits.get("average_all_weights"), lambda value: f"{value:.3f}"),
        *(_number(results.get(column, {}).get("quantized"), perplexity) for column in datasets),
        duration(sum((record.get("seconds") or {}).values())),
    ]


def _full_precision_rows(
    records: Sequence[Record], datasets: Sequence[_DatasetColumn]
) -> list[dict[str, Any]]:
    """Return a row for every model; two where runs measured different values for the same model."""
    rows: list[dict[str, Any]] = []
    for record in records:
        values = {
            _column(record, name): entry["full_precision"]
            for name, entry in _perplexities(record).items()
            if entry.get("full_precision") is not None
        }
        model = record.get("model")
        fits = (row for row in rows if row["model"] == model and _agree(row["values"], values))
        row = next(fits, None)
        if row is None and values:
            row = {"model": model, "values": {}, "bits": None}
            rows.append(row)
        if row is not None:
            row["values"].update(values)
            row["bits"] = row["bits"] or record.get("full_precision_bits")
    several = len({row["model"] for row in rows}) > 1
    for row in rows:
        row["name"] = f"full precision ({row['model']})" if several else "full precision"
        row["name"] = f"[bold]{escape(row['name'])}[/bold]"
    return rows


def _agree(first: dict[Any, float], second: dict[Any, float]) -> bool:
    shared = first.keys() & second.keys()
    return all(
        math.isclose(float(first[key]), float(second[key]), rel_tol=1e-4)
        or str(first[key]) == str(second[key])  # both NaN
        for key in shared
    )


def _perplexities(record: Record) -> dict[str, dict[str, Any]]:
    return record.get("perplexity") or {}


def _column(record: Record, dataset: str) -> _DatasetColumn:
    entry = _perplexities(record)[dataset]
    windows, available = entry.get("windows"), entry.get("windows_available")
    asked = ((record.get("config") or {}).get("eval") or {}).get("perplexity") or {}
    cap = (asked.get(dataset) or {}).get("max_windows")
    capped = available > windows if available and windows else cap is not None and cap == windows
    drawn = (asked.get(dataset) or {}).get("windows") == "drawn"
    which = f"{windows} drawn" if drawn else f"the first {windows}" if capped else None
    return dataset, entry["context"], entry["tokens"], which


def _dataset_columns(records: Sequence[Record]) -> list[_DatasetColumn]:
    columns = (_column(record, name) for record in records for name in _perplexities(record))
    return list(dict.fromkeys(columns))


def _dataset_heads(columns: Sequence[_DatasetColumn]) -> list[str]:
    """Heads with the whole protocol; of many datasets short ones, and the caption says the rest."""
    short = [f"{name}\nat {context}" for name, context, _, _ in columns]
    if len(columns) > _LONG_HEADS and len(set(short)) == len(short):
        return short
    heads = []
    for name, context, tokens, part in columns:
        which = [] if part is None else [_two_lines(part)]
        parts = ["perplexity", name, *which, f"{tokens:,} tokens", f"context {context}"]
        heads.append("\n".join(parts))
    return heads


def _protocol_lines(heads: dict[_DatasetColumn, str]) -> list[str]:
    """Return what short heads leave out."""
    lines = []
    for (name, context, tokens, part), head in heads.items():
        if f"{tokens:,} tokens" not in head:
            which = "" if part is None else f"{part} windows, "
            lines.append(f"{name} at {context}: perplexity over {which}{tokens:,} tokens.")
    return lines


def _two_lines(part: str) -> str:
    """``the first 8`` in a head: the words on one line, the number and its noun on the next."""
    words, _, last = part.rpartition(" ")
    return f"of {words}\n{last} windows:"


def _title(records: Sequence[Record]) -> str:
    """Return the models and methods of the table."""
    parts: list[str] = []
    for key in ("model", "method"):
        parts += dict.fromkeys(str(record[key]) for record in records if key in record)
    return escape(" · ".join(parts))


def _caption(
    records: Sequence[Record], labels: Sequence[str], heads: dict[_DatasetColumn, str]
) -> str:
    lines = [
        f"{label}: {status_line(record)}"
        for record, label in zip(records, labels, strict=True)
        if record.get("status") in {"failed", "stopped"}
    ]
    lines += _protocol_lines(heads)
    lines.append("Bits per weight: codes, codebooks, scales and permutations, all counted.")
    lines += entropy_note(records)
    lines += [str(record["model_note"]) for record in records if record.get("model_note")]
    return escape("\n".join(dict.fromkeys(lines)))


def _number(value: object, form: Any) -> str:  # noqa: ANN401
    return _UNKNOWN if value is None else form(float(str(value)))
