"""What a quantized key-value cache costs, full precision and quantized."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.run_labels import Record, marked_labels


def kv_cache_table(records: Sequence[Record]) -> Table | None:
    """Return a row for every run and dataset: perplexities with the cache, and recoveries.

    Args:
        records: as for :func:`crvq.report.closing_table.closing_table`.

    Returns:
        The table; None if no run was measured with a quantized cache.
    """
    table = Table(
        title="perplexity with a quantized key-value cache",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold", min_width=16)
    table.add_column("text, cache", overflow="fold")
    table.add_column("full precision\n(recovery)", justify="right", no_wrap=True)
    table.add_column("quantized\n(recovery)", justify="right", no_wrap=True)
    for record, label in zip(records, marked_labels(records), strict=True):
        for dataset, entry in (record.get("kv_cache") or {}).items():
            table.add_row(
                escape(label),
                escape(f"{dataset}, {entry['kind']}, {entry['bits']:.2f} bits"),
                _cell(entry.get("full_precision"), entry.get("full_precision_recovery")),
                _cell(entry.get("quantized"), entry.get("recovery")),
            )
    return table if table.row_count else None


def _cell(value: float | None, recovery: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if recovery is None else f" ({recovery:.1%})")
