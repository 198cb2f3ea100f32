"""Tokens per second before and after quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.run_labels import Record, marked_labels


def speed_table(records: Sequence[Record]) -> Table | None:
    """A row for every model: tokens per second of prompt and of new text, and megabytes held.

    Full precision stands before each run's own row, since both were timed on one machine in turn.

    Args:
        records: as for :func:`crvq.report.closing_table.closing_table`.

    Returns:
        The table; None if no run was timed.
    """
    timed = [
        (label, speed)
        for record, label in zip(records, marked_labels(records), strict=True)
        if (speed := record.get("speed"))
    ]
    if not timed:
        return None
    table = Table(
        title="speed: tokens per second, one sequence",
        title_justify="left",
        caption=_how(timed[0][1]),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", max_width=32)
    for name in ("prompt", "new text", "MB of linear layers"):
        table.add_column(name, justify="right")
    table.add_column("computed from")
    for label, speed in timed:
        for name, which in (("full precision", "full_precision"), (label, "quantized")):
            if speed.get(which):
                table.add_row(escape(name), *_cells(speed[which], speed.get("full_precision")))
        table.add_section()
    return table


def _cells(own: dict[str, Any], dense: dict[str, Any] | None) -> list[str]:
    cells = []
    for key in ("prefill_tokens_per_second", "decode_tokens_per_second"):
        ratio = "" if dense is None or dense is own else f" ({own[key] / dense[key]:.2f}x)"
        cells.append(f"{own[key]:,.1f}{ratio}")
    weights = "packed codes" if own["path"] == "packed" else "dense weights"
    return [*cells, f"{own['linear_bytes'] / 1e6:,.1f}", weights]


def _how(speed: dict[str, Any]) -> str:
    return (
        f"{speed['prompt_tokens']} prompt tokens, then {speed['new_tokens']} new ones; "
        f"{speed['threads']} threads, {speed['activation_dtype']}."
    )
