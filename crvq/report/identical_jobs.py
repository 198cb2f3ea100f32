"""Jobs that were asked for different things and came out the same."""

from __future__ import annotations

from collections.abc import Sequence

from crvq.report.run_labels import Record, effective_values, run_labels, show


def identical_jobs(records: Sequence[Record]) -> list[str]:
    """A sentence for every group of runs with different configurations and equal packed tensors.

    Equality is that of ``result_digest``. Where the runs' effective values explain it, the
    sentence says so: asked critical ratios of 0.01 and 0.02 both gave 0.0139.
    """
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.get("result_digest"):
            groups.setdefault(record["result_digest"], []).append(index)
    sentences = []
    for members in groups.values():
        chosen = {records[index].get("run_id"): records[index] for index in members}
        if len(chosen) > 1:
            sentences.append(_sentence(list(chosen.values())))
    return sentences


def _sentence(records: Sequence[Record]) -> str:
    # Labels of the group alone: what its members share does not set them apart.
    labels = run_labels(records)
    listed = f"{', '.join(labels[:-1])} and {labels[-1]}"
    return f"{listed} gave the same quantized model, bit for bit{_reason(records)}."


def _reason(records: Sequence[Record]) -> str:
    pairs = [effective_values(record) for record in records]
    shared = set(pairs[0]).intersection(*pairs[1:])
    reasons = []
    for name in sorted(shared):
        asked = {show(pair[name][0]) for pair in pairs}
        used = {show(pair[name][1], 3) for pair in pairs}
        if len(asked) > 1 and len(used) == 1:
            reasons.append(f"{name} comes to {used.pop()} in each")
    return f": {', '.join(reasons)}" if reasons else ""
