import pytest

from crvq.report.finetune_stages import finetune_stage

FINE = "config.finetune."


@pytest.mark.parametrize(
    ("row", "stage"),
    [
        ({}, "none"),
        ({FINE + "samples": 64, FINE + "validation": 0.1, FINE + "block": None}, "none"),
        ({FINE + "end_to_end": None}, "none"),
        ({FINE + "block.epochs": 2}, "block"),
        ({FINE + "end_to_end.epochs": 2}, "end to end"),
        ({FINE + "end_to_end.epochs": 2, FINE + "block.epochs": 2}, "block + end to end"),
    ],
)
def test_stages_are_told_from_what_is_configured(row, stage):
    assert finetune_stage(row) == stage


@pytest.mark.parametrize("stage", ["block", "end_to_end"])
def test_training_norms_alone_is_told_apart(stage):
    row = {f"{FINE}{stage}.epochs": 2}
    plain = finetune_stage(row)
    assert finetune_stage({**row, f"{FINE}train": ["codebooks", "scales", "norms"]}) == plain
    assert finetune_stage({**row, f"{FINE}train": ["norms"]}) == f"{plain} (norms)"
    assert finetune_stage({f"{FINE}train": ["norms"]}) == "none"


@pytest.mark.parametrize("stage", ["block", "end_to_end"])
def test_training_codes_is_told_apart(stage):
    row = {f"{FINE}{stage}.epochs": 2, f"{FINE}{stage}.codes": None}
    plain = finetune_stage(row)
    assert plain == finetune_stage({f"{FINE}{stage}.epochs": 2})
    assert finetune_stage({**row, f"{FINE}{stage}.codes.period": 4}) == f"{plain} (PV)"
