import pytest

from crvq.report.claims import Evidence, Verdict
from crvq.report.claims.choices import (
    finetuning_helps,
    importance_beats_alternatives,
    sorting_helps,
)

H, P, F = Verdict.HOLDS, Verdict.IN_PART, Verdict.FAILS
U, N = Verdict.UNDECIDED, Verdict.UNTESTED


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ({"weight": 76, "activation": 70, "random": 71}, H),
        ({"weight": 76, "activation": 60}, P),
        ({"weight": 59, "activation": 60}, U),
        ({"weight": 76, "activation": 40}, F),
        ({"max_error_over_inverse": 20}, N),
        ({}, N),
    ],
    ids=str,
)
def test_importance(runs_of, make_run, others, verdict):
    runs = runs_of(
        make_run(58.0, importance="error_activation"),
        *(make_run(float(v), importance=name) for name, v in others.items()),
    )
    finding = importance_beats_alternatives(Evidence(runs))
    assert finding.verdict is verdict
    assert all(name in finding.measured for name in others if verdict is not N)


def test_importance_without_critical_channels_means_nothing(runs_of, make_run):
    kinds = ("error_activation", "weight")
    runs = runs_of(
        *(make_run(9.0 + n, importance=k, critical_ratio=0.0) for n, k in enumerate(kinds))
    )
    assert importance_beats_alternatives(Evidence(runs)).verdict is N


@pytest.mark.parametrize(("sorted_", "verdict"), [(80.0, H), (103.0, U), (130.0, F)])
@pytest.mark.parametrize("natural", ["critical_first", "none"])
def test_sorting(runs_of, make_run, sorted_, natural, verdict):
    runs = runs_of(
        make_run(100.0, reorder=natural),
        make_run(sorted_, reorder="sorted"),
        make_run(1.0, reorder="stratified"),
    )
    assert sorting_helps(Evidence(runs)).verdict is verdict


def test_sorting_without_the_natural_order(runs_of, make_run):
    assert sorting_helps(Evidence(runs_of(make_run(), make_run(reorder="stratified")))).verdict is N


@pytest.mark.parametrize(("after", "verdict"), [(40.0, H), (98.0, U), (130.0, F)])
def test_stages_of_fine_tuning(runs_of, make_run, after, verdict):
    def tuned(value, *stages):
        finetune = {name: {"epochs": 2} for name in stages}
        return make_run(value, config={"finetune": finetune})

    block = Evidence(runs_of(make_run(100.0), tuned(after, "block"), tuned(1.0, "end_to_end")))
    assert finetuning_helps(block, "block", "none").verdict is verdict
    both = Evidence(
        runs_of(make_run(1.0), tuned(100.0, "block"), tuned(after, "block", "end_to_end"))
    )
    assert finetuning_helps(both, "block + end to end", "block").verdict is verdict
    assert finetuning_helps(Evidence(runs_of(make_run())), "block", "none").verdict is N


def test_end_to_end_is_told_from_the_same_block_fine_tuning(runs_of, make_run):
    def tuned(value, epochs, **stages):
        block = {"block": {"epochs": epochs, "samples": None if stages else 64}}
        return make_run(value, config={"finetune": {**block, **stages}})

    both = tuned(40.0, 2, end_to_end={"epochs": 3})
    for epochs, verdict in ((2, H), (10, N)):
        evidence = Evidence(runs_of(tuned(100.0, epochs), both))
        assert finetuning_helps(evidence, "block + end to end", "block").verdict is verdict
