"""What full precision and quantized models say to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.run_labels import Record, marked_labels


def generation_table(records: Sequence[Record]) -> Table | None:
    """Greedy continuations: a section for every prompt, a row for every model.

    Full precision comes first, once for every text that it gave (runs of one model agree).

    Args:
        records: as for :func:`crvq.report.closing_table.closing_table`.

    Returns:
        The table; None if no run has continuations.
    """
    answers: dict[str, dict[tuple[str, str], None]] = {}
    for record, label in zip(records, marked_labels(records), strict=True):
        for entry in record.get("generations") or []:
            rows = answers.setdefault(entry["prompt"], {})
            if entry.get("full_precision") is not None:
                rows[("full precision", entry["full_precision"])] = None
            if entry.get("quantized") is not None:
                rows[(label, entry["quantized"])] = None
    if not answers:
        return None
    table = Table(
        title="greedy continuations",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", no_wrap=True, max_width=32)
    table.add_column("continuation", overflow="fold")
    for prompt, rows in answers.items():
        table.add_row("", f"[bold]{escape(prompt)}[/bold]")
        for label, text in sorted(rows, key=lambda row: row[0] != "full precision"):
            table.add_row(escape(label), f"… {escape(_one_line(text))}")
        table.add_section()
    return table


def _one_line(text: str) -> str:
    """Line breaks as ``⏎``: a broken model may say little else."""
    return text.strip(" ").replace("\n", "⏎") or "(ends at once)"
