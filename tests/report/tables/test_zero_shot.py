import pandas as pd

from crvq.report.tables import zero_shot_table


def scored(make_run, value, **params):
    metric = {
        "quantized": value,
        "full_precision": 0.75,
        "chance": 0.5,
        "quantized_stderr": 0.01,
    }
    tasks = {name: {"metrics": {"acc": metric}} for name in ("piqa", "boolq")}
    return make_run(record={"zero_shot": tasks}, **params)


def test_chance_full_precision_then_settings(runs_of, make_run):
    runs = runs_of(
        scored(make_run, 0.6, bits=2.0, group_size=4), scored(make_run, 0.55), make_run(seed=1)
    )
    table = zero_shot_table(runs)
    assert table.frame["label"].tolist()[:2] == ["picking at random", "full precision"]
    assert table.frame["accuracy: piqa"].tolist() == [0.5, 0.75, 0.55, 0.6]
    averages = table.frame["zero-shot average"].tolist()
    assert averages[1:] == [0.75, 0.55, 0.6]
    assert pd.isna(averages[0])
    assert table.cells()[2][-4:] == ["55.0", "55.0", "55.0", "-"]


def test_full_precision_is_of_one_device(runs_of, make_run):
    records = [scored(make_run, 0.6, group_size=size) for size in (8, 4, 2)]
    records[2]["device"] = "cuda"
    for task in records[2]["zero_shot"].values():
        task["metrics"]["acc"] = {**task["metrics"]["acc"], "full_precision": 0.9}
    frame = zero_shot_table(runs_of(*records)).frame
    assert frame["accuracy: piqa"][1] == 0.75
    assert frame["zero-shot average"][1] == 0.75


def test_no_scores(runs_of, make_run):
    for runs in (runs_of(), runs_of(make_run())):
        assert "experiments=zero_shot" in zero_shot_table(runs).missing()
        assert zero_shot_table(runs).frame.empty


def test_tasks_at_chance_are_named(runs_of, make_run):
    runs = runs_of(scored(make_run, 0.515, group_size=4), scored(make_run, 0.6))
    table = zero_shot_table(runs)
    found = dict(zip(table.frame["accuracy: piqa"], table.frame["at_chance"], strict=True))
    assert found[0.515] == "piqa, boolq"
    assert found[0.6] == ""
    assert any("At chance" in note for note in table.notes)
