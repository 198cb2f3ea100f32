import pandas as pd

from crvq.report.tables import zero_shot_table


def scored(make_run, value, limits=(None, None), values=None, **params):
    metric = {
        "quantized": value,
        "full_precision": 0.75,
        "chance": 0.5,
        "quantized_stderr": 0.01,
    }
    tasks = {
        name: {"metrics": {"acc": {**metric, **(values or {}).get(name, {})}}, "limit": limit}
        for name, limit in zip(("piqa", "boolq"), limits, strict=True)
    }
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
    at_chance = {"piqa": {"quantized": 0.515}}
    runs = runs_of(
        scored(make_run, 0.51, group_size=2),
        scored(make_run, 0.6, values=at_chance, group_size=4),
        scored(make_run, 0.6),
    )
    table = zero_shot_table(runs)
    found = dict(zip(table.frame["accuracy: piqa"], table.frame["at_chance"], strict=True))
    assert (found[0.51], found[0.515], found[0.6]) == ("all", "piqa", "")
    assert any("At chance" in note for note in table.notes)


def test_how_all_tasks_were_asked_is_said_once(runs_of, make_run):
    table = zero_shot_table(runs_of(scored(make_run, 0.6, limits=(100, 100))))
    assert [column.head for column in table.shown][2:4] == ["piqa", "boolq"]
    assert "Questions of each task: first 100." in table.notes


def test_tasks_that_were_asked_otherwise_say_so_themselves(runs_of, make_run):
    table = zero_shot_table(runs_of(scored(make_run, 0.6, limits=(100, None))))
    assert [column.head for column in table.shown][2:4] == ["piqa, first 100", "boolq"]
    assert not any("Questions" in note for note in table.notes)
