import math

import pandas as pd
import pytest

from crvq.report.table_files import to_latex, to_markdown
from crvq.report.tables import main_table

COLUMN = "perplexity: wiki, 64"


def test_full_precision_then_settings_by_bits_with_seeds_as_one(runs_of, make_run):
    seeds = [make_run(value, bits=1.0, config={"seed": n}) for n, value in enumerate((40.0, 50.0))]
    table = main_table(runs_of(make_run(30.0, bits=2.0, reorder="none"), *seeds))
    assert table.frame["bits"].tolist() == [16.0, 1.0, 2.0]
    assert table.frame[COLUMN].tolist() == [10.0, 45.0, 30.0]
    assert table.cells()[1][2] == "45.0 ± 7.1"  # n - 1: sqrt(50)
    assert "Mean ± standard deviation over seeds." in table.notes


def test_each_model_has_its_own_full_precision(runs_of, make_run):
    runs = runs_of(make_run(model="small"), make_run(model="large"))
    table = main_table(runs)
    assert table.frame[["model", "label"]].to_numpy().tolist() == [
        ["large", "full precision"],
        ["large", "CRVQ-paper"],
        ["small", "full precision"],
        ["small", "CRVQ-paper"],
    ]
    assert table.sections() == {0: "large", 2: "small"}
    assert "**small**" in to_markdown(table)
    assert r"\multicolumn{3}{l}{\textit{small}}" in to_latex(table)


def test_full_precision_is_of_one_device(runs_of, make_run):
    records = [
        make_run(record={"device": device}, group_size=size)
        for device, size in (("cpu", 8), ("cpu", 4), ("cuda", 8))
    ]
    records[2]["perplexity"]["wiki"]["full_precision"] = 11.5
    assert main_table(runs_of(*records)).frame[COLUMN][0] == 10.0


def test_experiments_that_compare_methods_are_preferred(runs_of, make_run):
    ablation = make_run(1.0, record={"experiment": "x-importance"}, reorder="none")
    methods = make_run(2.0, record={"experiment": "smollm2-methods"})
    assert main_table(runs_of(ablation, methods)).frame[COLUMN].tolist() == [10.0, 2.0]
    assert len(main_table(runs_of(ablation)).frame) == 2
    named = main_table(runs_of(ablation, methods), ["x-importance"])
    assert named.frame[COLUMN].tolist() == [10.0, 1.0]
    assert len(main_table(runs_of(ablation, methods), ["x-*"]).frame) == 3  # no such experiment


def test_whole_rows_chosen_by_a_budget_are_named_so(runs_of, make_run):
    """The budget's null is a choice: the 128 that was asked for was not used."""
    used = {"effective": {"bits": 1, "group_size": None}}
    table = main_table(runs_of(make_run(method="rtn", record=used, **{"group_size": 128})))
    assert table.frame["label"].tolist()[1:] == ["RTN 1 bit"]


def test_shipped_rows_are_marked(runs_of, make_run):
    record = make_run(record={"host": "far", "device": "cuda"})
    runs = runs_of(make_run(group_size=4), record)
    assert "computed" not in [column.head for column in main_table(runs).shown]
    runs.loc[1, ["reference", "origin"]] = [True, "reference: far, cuda, 2025-01-02"]
    table = main_table(runs)
    assert table.shown[-1].head == "computed"
    assert [row[-1] for row in table.cells()] == ["-", "-", "reference: far, cuda, 2025-01-02"]


def test_evaluations_of_full_precision_are_no_setting(runs_of, make_run):
    table = main_table(runs_of(make_run(), make_run(method="full_precision")))
    assert table.frame["method"].tolist() == ["full_precision", "crvq"]


def test_what_must_be_known_of_a_model_is_said(runs_of, make_run):
    table = main_table(runs_of(make_run(record={"model_note": "was 4 bit"})))
    assert "tiny: was 4 bit." in table.notes


def test_zero_shot_averages_stand_beside(runs_of, make_run):
    metric = {"acc": {"quantized": 0.5, "full_precision": 0.75}}
    table = main_table(runs_of(make_run(record={"zero_shot": {"piqa": {"metrics": metric}}})))
    assert table.frame["zero-shot average"].tolist() == [0.75, 0.5]


@pytest.mark.parametrize("runs", [pd.DataFrame()])
def test_no_runs(runs):
    assert "python run.py +experiments=methods" in main_table(runs).missing()
    assert main_table(runs).cells() == []


def test_a_broken_model_is_shown_as_such(runs_of, make_run):
    assert main_table(runs_of(make_run(math.inf))).cells()[1][2] == "inf"


def test_a_text_has_one_printed_column_unless_rows_would_be_left_empty(runs_of, make_run):
    def measured(*contexts, **params):
        record = make_run(**params)
        entry = record["perplexity"].pop("wiki")
        texts = {"c4": 64, "wikitext2": 64} if len(contexts) > 1 else {"c4": contexts[0]}
        record["perplexity"] = {name: {**entry, "context": at} for name, at in texts.items()}
        return record

    runs = runs_of(measured(64, 64), measured(64, 64, group_size=4), measured(32, group_size=2))
    heads = [column.head for column in main_table(runs).shown]
    assert heads == ["method", "bits", "WikiText-2", "C4", "C4, 32"]
