"""How closely quantized models follow full precision."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.run_labels import Record, marked_labels


def agreement_table(records: Sequence[Record]) -> Table | None:
    """Return a row for every run and dataset: KL divergence and top-1 agreement.

    Args:
        records: as for :func:`crvq.report.closing_table.closing_table`.

    Returns:
        The table; None if no run has been compared with full precision.
    """
    table = Table(
        title="agreement with full precision",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", overflow="fold", min_width=16)
    table.add_column("text", overflow="fold")
    table.add_column("KL divergence,\nnats a token", justify="right", no_wrap=True)
    table.add_column("same most\nlikely token", justify="right", no_wrap=True)
    for record, label in zip(records, marked_labels(records), strict=True):
        for dataset, entry in (record.get("agreement") or {}).items():
            text = f"{dataset}, {entry['tokens']:,} tokens at {entry['context']}"
            table.add_row(
                escape(label),
                escape(text),
                f"{float(entry['kl_divergence']):.3f}",
                f"{float(entry['top1_agreement']):.1%}",
            )
    return table if table.row_count else None
