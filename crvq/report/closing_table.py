"""The table that closes a run or a sweep."""

from __future__ import annotations

import math
from collections import Counter
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
_DatasetColumn = tuple[str, int, int, str | None]
"""Dataset, context, tokens, and if it was not the whole text which windows (`8 drawn`)."""


def closing_table(records: Sequence[Record]) -> Table:
    """Return a table of runs: full precision first, then each run in the order given.

    Runs are named by :func:`run_labels`. Columns: bits per weight with everything counted,
    perplexity on every dataset (numbers of different contexts or texts never share a column), and
    time, with a mark on runs that were reused. Below the table: protocols, bits over all weights,
    what was computed now and what was reused from where and when, why runs failed, and what must
    be known of the models.

    Args:
        records: as :func:`crvq.tracking.record_schema.read_record` gives them.
    """
    datasets = list(dict.fromkeys(_column(r, name) for r in records for name in _perplexities(r)))
    labels = run_labels(records)
    table = Table(
        title=_title(records),
        title_justify="left",
        caption=_caption(records, labels, datasets),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold", min_width=16)
    table.add_column("bits", justify="right", no_wrap=True)
    for head in _heads(datasets):
        table.add_column(escape(head), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in _full_precision_rows(records, datasets):
        cells = [_number(row["values"].get(column), perplexity) for column in datasets]
        table.add_row(row["name"], _number(row["bits"], "{:.2f}".format), *cells, "")
    table.add_section()
    for record, label in zip(records, labels, strict=True):
        table.add_row(*_run_cells(record, label, datasets))
    return table


def origins(records: Sequence[Record]) -> list[str]:
    """Return what was computed now and what was reused, from which machine and when."""
    reused = [record for record in records if record.get("reused")]
    if not reused:
        return []
    places = Counter(origin(record) for record in reused)
    lines = [f"{_runs(count)} reused, made on {place}." for place, count in places.items()]
    return [f"{_runs(len(records) - len(reused))} computed now.", *lines]


def _runs(count: int) -> str:
    return f"{count or 'No'} run{'' if count == 1 else 's'}"


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
    results = {_column(record, name): entry for name, entry in _perplexities(record).items()}
    time = duration(sum((record.get("seconds") or {}).values()))
    return [
        escape(label) + (f" [red]{status}[/red]" if status else ""),
        _number(bits.get("average_quantized_weights"), "{:.3f}".format),
        *(_number(results.get(column, {}).get("quantized"), perplexity) for column in datasets),
        "[dim]reused[/dim]" if record.get("reused") else time,
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


def _heads(columns: Sequence[_DatasetColumn]) -> list[str]:
    """Return a head of two lines; with more where two datasets would share one."""
    short = [f"{name}\nat {context}" for name, context, _, _ in columns]
    return [
        f"{head}\n{part or 'whole text'}\n{tokens:,} tokens" if short.count(head) > 1 else head
        for head, (_, _, tokens, part) in zip(short, columns, strict=True)
    ]


def _protocols(columns: Sequence[_DatasetColumn]) -> list[str]:
    """Return what each perplexity was measured on; texts read in the same way share a line."""
    ways: dict[str, list[str]] = {}
    for name, context, tokens, part in columns:
        which = "the whole text" if part is None else f"{part} windows"
        ways.setdefault(f"{which}, {tokens:,} tokens, context {context}", []).append(name)
    return [f"Perplexity on {', '.join(names)}: {way}." for way, names in ways.items()]


def _over_all_weights(records: Sequence[Record]) -> list[str]:
    """Return the bits of whole models, with embeddings and norms, as one line."""
    bits = (record.get("bits") or {} for record in records)
    values = sorted(b["average_all_weights"] for b in bits if b.get("average_all_weights"))
    if not values:
        return []
    span = dict.fromkeys(f"{value:.2f}" for value in (values[0], values[-1]))
    return [f"Over all weights, those left unquantized too: {' to '.join(span)} bits."]


def _title(records: Sequence[Record]) -> str:
    """Return the models of the table; names of runs say the methods."""
    models = dict.fromkeys(str(record["model"]) for record in records if "model" in record)
    return escape(" · ".join(models))


def _caption(
    records: Sequence[Record], labels: Sequence[str], datasets: Sequence[_DatasetColumn]
) -> str:
    lines = [
        f"{label}: {status_line(record)}"
        for record, label in zip(records, labels, strict=True)
        if record.get("status") in {"failed", "stopped"}
    ]
    lines += origins(records)
    lines += _protocols(datasets)
    lines.append("Bits per quantized weight: codes, codebooks, scales, permutations, all counted.")
    lines += _over_all_weights(records)
    lines += entropy_note(records)
    lines += [str(record["model_note"]) for record in records if record.get("model_note")]
    return escape("\n".join(dict.fromkeys(lines)))


def _number(value: object, form: Any) -> str:  # noqa: ANN401
    return _UNKNOWN if value is None else form(float(str(value)))
