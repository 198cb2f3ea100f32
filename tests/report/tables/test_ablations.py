import pandas as pd
import pytest

from crvq.report.tables import ABLATIONS, ablation_table

BY_NAME = {ablation.name: ablation for ablation in ABLATIONS}
RATIO = "config.method_params.critical_ratio"


def test_rows_are_sorted_and_changes_are_against_the_reference(runs_of, make_run):
    runs = runs_of(
        make_run(80.0, critical_ratio=0.02),
        make_run(100.0, critical_ratio=0.0),
        make_run(50.0, critical_ratio=0.16),
    )
    table = ablation_table(runs, BY_NAME["critical_ratio"])
    assert table.frame[RATIO].tolist() == [0.0, 0.02, 0.16]
    changes = table.frame["change"].tolist()
    assert pd.isna(changes[0])
    assert changes[1:] == pytest.approx([-0.2, -0.5])
    assert table.cells()[1][:1] == ["0.02"]


def test_only_settings_that_differ_in_nothing_else_are_compared(runs_of, make_run):
    runs = runs_of(
        make_run(100.0, critical_ratio=0.0),
        make_run(80.0, critical_ratio=0.02),
        make_run(10.0, critical_ratio=0.04, group_size=4),
        make_run(20.0, critical_ratio=0.04, model="other"),
        make_run(30.0, critical_ratio=0.04, config={"calibration": {"samples": 9}}),
    )
    table = ablation_table(runs, BY_NAME["critical_ratio"])
    assert table.frame["perplexity: wiki, 64"].tolist() == [100.0, 80.0]


def test_groups_are_kept_apart_and_named(runs_of, make_run):
    runs = runs_of(
        *(
            make_run(value, critical_ratio=ratio, reorder=order)
            for value, ratio, order in (
                (10.0, 0.0, "sorted"),
                (20.0, 0.0, "stratified"),
                (5.0, 0.02, "sorted"),
                (30.0, 0.02, "stratified"),
            )
        )
    )
    table = ablation_table(runs, BY_NAME["critical_ratio"])
    rows = table.frame[["shared", RATIO, "change"]].to_numpy().tolist()
    assert [row[0] for row in rows] == [
        f"CRVQ-paper · reorder={order}" for order in ("sorted", "stratified") for _ in "ab"
    ]
    assert [row[2] for row in rows[1::2]] == [-0.5, 0.5]
    assert table.shown[0].head == "with"


def test_two_keys_may_vary_together(runs_of, make_run):
    runs = runs_of(
        make_run(100.0, extended_codebooks=0),
        make_run(90.0, extended_codebooks=1, extended_bits=4),
        make_run(80.0, extended_codebooks=1, extended_bits=8),
    )
    table = ablation_table(runs, BY_NAME["extended_codebooks"])
    assert table.frame["change"].tolist()[1:] == pytest.approx([-0.1, -0.2])


def test_keys_that_do_nothing_are_no_ablation(runs_of, make_run):
    runs = runs_of(
        *(make_run(critical_ratio=0.0, importance=form) for form in ("random", "weight"))
    )
    assert ablation_table(runs, BY_NAME["importance"]).frame.empty


def test_names_are_sorted_by_perplexity(runs_of, make_run):
    runs = runs_of(make_run(70.0, importance="random"), make_run(60.0, importance="activation"))
    table = ablation_table(runs, BY_NAME["importance"])
    assert table.frame["config.method_params.importance"].tolist() == ["activation", "random"]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_nothing_to_compare_says_what_to_run(ablation, runs_of, make_run):
    for runs in (pd.DataFrame(), runs_of(make_run()), runs_of(make_run(method="rtn", bits=3.0))):
        table = ablation_table(runs, ablation)
        assert table.frame.empty
        assert f"+experiments={ablation.name}" in table.missing()


def test_runs_without_perplexity_have_no_change(runs_of, make_run):
    runs = runs_of(make_run({}, critical_ratio=0.0), make_run({}))
    table = ablation_table(runs, BY_NAME["critical_ratio"])
    assert len(table.cells()) == 2
