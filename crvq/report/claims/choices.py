"""Choices of the algorithm: how channels are ranked and ordered, and fine-tuning."""

from __future__ import annotations

from crvq.report.claims.claim import (
    Finding,
    Verdict,
    common_verdict,
    finding_of_pairs,
    improvement,
    judge_pairs,
    runs_of_pairs,
    untested,
)
from crvq.report.claims.evidence import PARAMS, Evidence, param, uses_critical
from crvq.report.claims.pair import Pair, Row
from crvq.report.finetune_stages import FINETUNE, NONE, finetune_stage

_ALTERNATIVES = ("weight", "activation", "random")


def importance_beats_alternatives(evidence: Evidence) -> Finding:
    """Return the authors' importance against each alternative."""
    key = f"{PARAMS}importance"
    by_name: dict[str, list[Pair]] = {}
    for name in _ALTERNATIVES:
        pairs = evidence.pairs(
            (key,),
            lambda row, name=name: _ranked_by(row, name),  # type: ignore[misc]
            lambda row: _ranked_by(row, "error_activation"),
        )
        if pairs:
            by_name[name] = pairs
    if not by_name:
        return untested("no record of any other form of importance than error_activation")
    verdicts = [judge_pairs(pairs) for pairs in by_name.values()]
    words = "; ".join(f"against {name} {improvement(pairs)}" for name, pairs in by_name.items())
    ids = runs_of_pairs(pair for pairs in by_name.values() for pair in pairs)
    verdict = Verdict.FAILS if Verdict.FAILS in verdicts else common_verdict(verdicts)
    return Finding(verdict, f"error_activation {words}", ids)


def sorting_helps(evidence: Evidence) -> Finding:
    """Sorted by importance against the natural order (critical channels still first)."""
    pairs = evidence.pairs(
        (f"{PARAMS}reorder",),
        lambda row: param(row, "reorder") in {"critical_first", "none"},
        lambda row: param(row, "reorder") == "sorted",
    )
    nothing = "no two records that differ in reorder=sorted and the natural order"
    return finding_of_pairs(pairs, nothing)


def finetuning_helps(evidence: Evidence, stage: str, without: str) -> Finding:
    """Return a stage of fine-tuning against what comes before it, which is alike in both."""
    keys = [str(name) for name in evidence.settings if str(name).startswith(FINETUNE)]
    if without != NONE:
        before = f"{FINETUNE}{without}."  # its number of windows may stand in either place
        keys = [key for key in keys if not key.startswith(before) or key == f"{before}samples"]
    pairs = evidence.pairs(
        keys,
        lambda row: finetune_stage(row["settings"]) == without,
        lambda row: finetune_stage(row["settings"]) == stage,
    )
    nothing = f"no record with fine-tuning ({stage}) has a twin with {without}"
    return finding_of_pairs(pairs, nothing)


def _ranked_by(row: Row, importance: str) -> bool:
    return param(row, "importance") == importance and uses_critical(row)
