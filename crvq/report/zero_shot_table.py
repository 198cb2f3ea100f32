"""Zero-shot scores next to chance: accuracies that mean nothing are marked as such."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from crvq.report.number_format import format_cell
from crvq.report.run_labels import Record, marked_labels
from crvq.report.zero_shot_columns import task_label

AT_CHANCE, BELOW_CHANCE = "≈", "▼"
_STDERRS = 2.0
_LEGEND = (
    f"{AT_CHANCE} within two standard errors of chance: no evidence of knowing anything. "
    f"{BELOW_CHANCE} below chance by more. Recovery: quantized / full precision; in brackets where "
    "full precision itself is at chance or below, and there is nothing to recover."
)
_LONGEST_NAME = 10
"""Letters of a task's name on one line of a head."""
_DETAILED = 2
"""Up to so many runs are shown with every metric; more of them with accuracies alone."""


def zero_shot_table(records: Sequence[Record]) -> Table | None:
    """Return a table of zero-shot scores; None if no record has any.

    One or two runs: a row for each task and metric, with standard errors, recovery and chance.
    More: a row for each run with the accuracy (``acc``) of each task, and their mean. Tasks with
    other limits or shots have columns of their own, and other sets of tasks means of their own.

    Args:
        records: as :func:`crvq.tracking.record_schema.read_record` gives them.
    """
    labels = marked_labels(records)
    shown = [
        (record, label)
        for record, label in zip(records, labels, strict=True)
        if record.get("zero_shot")
    ]
    if not shown:
        return None
    tasks = [(task, entry) for record, _ in shown for task, entry in record["zero_shot"].items()]
    table = Table(
        title="zero-shot",
        title_justify="left",
        caption=escape("\n".join([_LEGEND, *_protocols(tasks)])),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    if len(shown) > _DETAILED:
        _fill_overview(table, shown)
    else:
        _fill_details(table, shown)
    return table


def chance_flag(value: float | None, stderr: float | None, chance: float | None) -> str:
    """`AT_CHANCE` within two standard errors of chance, `BELOW_CHANCE` below that, else empty.

    Also empty where the error or the chance level is not known.
    """
    if value is None or stderr is None or chance is None:
        return ""
    if abs(value - chance) <= _STDERRS * stderr:
        return AT_CHANCE
    return BELOW_CHANCE if value < chance else ""


def _fill_details(table: Table, shown: Sequence[tuple[Record, str]]) -> None:
    for head in ("task", "metric"):
        table.add_column(head, no_wrap=True)
    for head in ("full precision", "quantized", "recovery", "chance"):
        table.add_column(head, justify="right", no_wrap=True)
    for record, label in shown:
        table.add_section()
        if len(shown) > 1:
            table.add_row(f"[bold]{escape(label)}[/bold]")
        for task, entry in record["zero_shot"].items():
            for metric, scores in entry["metrics"].items():
                table.add_row(
                    escape(task),
                    escape(metric),
                    _score(metric, scores, "full_precision"),
                    _score(metric, scores, "quantized"),
                    _recovery(scores),
                    format_cell("accuracy", scores.get("chance")),
                )


def _fill_overview(table: Table, shown: Sequence[tuple[Record, str]]) -> None:
    several = len({entry.get("source") for r, _ in shown for entry in r["zero_shot"].values()}) > 1
    runs = [(_accuracies(record, several), label) for record, label in shown]
    tasks = list(dict.fromkeys(task for scores, _ in runs for task in scores))
    sets = list(dict.fromkeys(tuple(sorted(scores)) for scores, _ in runs if len(scores) > 1))
    table.add_column("run", overflow="fold", min_width=16)
    table.padding = (0, 0, 0, 0)  # six tasks and their mean fit 80 columns
    heads = _short_heads(tasks)
    for head in (*heads, *_mean_heads(sets)):
        table.add_column(escape(head), justify="right", no_wrap=head in heads, overflow="fold")
    chances = {
        task: {"chance": next(s[task].get("chance") for s, _ in runs if task in s)}
        for task in tasks
    }
    table.add_row("[dim]chance[/dim]", *_overview_cells(tasks, sets, chances, "chance", part=True))
    baselines: list[list[str]] = []
    for scores, _ in runs:  # one row per model, not per run
        cells = _overview_cells(tasks, sets, scores, "full_precision")
        if cells not in baselines:
            baselines.append(cells)
            table.add_row("[bold]full precision[/bold]", *cells)
    table.add_section()
    for scores, label in runs:
        table.add_row(escape(label), *_overview_cells(tasks, sets, scores, "quantized"))


def _short_heads(tasks: Sequence[str]) -> list[str]:
    """Heads in short lines; what all tasks share (``first 100``) is said below the table."""
    parts = [task.split(", ") for task in tasks]
    if len(tasks) > 1 and len({tuple(part[1:]) for part in parts}) == 1:
        parts = [part[:1] for part in parts]
    return ["\n".join([_short_name(name), *asked]) for name, *asked in parts]


def _short_name(task: str) -> str:
    return task if len(task) <= _LONGEST_NAME else "_\n".join(task.rsplit("_", 1))


def _mean_heads(sets: Sequence[tuple[str, ...]]) -> list[str]:
    return ["mean"] if len(sets) == 1 else [f"mean of {'; '.join(tasks)}" for tasks in sets]


def _overview_cells(
    tasks: Sequence[str],
    sets: Sequence[tuple[str, ...]],
    scores: dict[str, dict[str, Any]],
    which: str,
    part: bool = False,
) -> list[str]:
    """Each task's accuracy, and the mean under the set of tasks that these are (``part``: hold)."""
    cells = [
        _score("acc", scores[task], which, with_error=False) if task in scores else "-"
        for task in tasks
    ]
    for one in sets:
        fits = set(one) <= set(scores) if part else set(one) == set(scores)
        values = [scores[task].get(which) for task in one] if fits else []
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known and len(known) == len(values) else None
        cells.append(format_cell("accuracy", mean))
    return cells


def _accuracies(record: Record, sources: bool) -> dict[str, dict[str, Any]]:
    """Scores of ``acc`` by the task's label."""
    return {
        task_label(task, entry, sources): entry["metrics"]["acc"]
        for task, entry in record["zero_shot"].items()
        if "acc" in entry["metrics"]
    }


def _recovery(scores: dict[str, Any]) -> str:
    recovery = scores.get("recovery")
    if recovery is None:
        return "-"
    shown = f"{recovery:.1%}".replace("%", " %")
    return f"({shown})" if _flag(scores, "full_precision") else shown


def _flag(scores: dict[str, Any], which: str) -> str:
    return chance_flag(scores.get(which), scores.get(f"{which}_stderr"), scores.get("chance"))


def _score(metric: str, scores: dict[str, Any], which: str, with_error: bool = True) -> str:
    value, stderr = scores.get(which), scores.get(f"{which}_stderr")
    style = "accuracy" if metric.startswith("acc") else "value"
    flag = _flag(scores, which) if which != "chance" else ""
    shown = format_cell(style, value, stderr if with_error else None)  # type: ignore[arg-type]
    return f"{shown} {flag}" if flag else shown


def _protocols(tasks: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return how the questions were put, and where they are from; tasks alike share a line."""
    lines: dict[str, list[str]] = {}
    for task, entry in tasks:
        asked = f"{entry.get('samples'):,}" if entry.get("samples") is not None else "?"
        if (entry.get("available") or 0) > (entry.get("samples") or 0):
            asked = f"the first {asked} of {entry['available']:,}"
        settings = f"{entry.get('shots')}-shot, lm-eval {entry.get('lm_eval')}, {entry.get('data')}"
        lines.setdefault(settings, []).append(f"{task} ({asked})")
    return [f"{', '.join(dict.fromkeys(names))}: {settings}" for settings, names in lines.items()]
