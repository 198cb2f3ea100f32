"""What entropy coding could still save, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from crvq.report.run_labels import Record


def entropy_saving(record: Record) -> float | None:
    """Bits per quantized weight that ideal order-0 entropy coding of the codes would save."""
    bits = record.get("bits") or {}
    if bits.get("codes_entropy") is None or not bits.get("quantized_weights"):
        return None
    return (bits["codes"] - bits["codes_entropy"]) / float(bits["quantized_weights"])


def entropy_note(records: Sequence[Record]) -> list[str]:
    """Return one line for all records; none where no record has it."""
    known = [entropy_saving(record) for record in records]
    savings = sorted(round(saving, 2) for saving in known if saving is not None)
    if not savings:
        return []
    span = f"{savings[0]:.2f}"
    if savings[-1] != savings[0]:
        span += f" to {savings[-1]:.2f}"
    return [f"Entropy coding of the codes could save {span} bits per weight (order 0)."]
