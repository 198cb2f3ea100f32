import pytest

from crvq.report.runs import NoRunsError, load_runs, no_runs

from .conftest import layer


def test_one_damaged_file_spoils_one_run_at_most(every_kind):
    (every_kind / "sweep" / "run0" / "layers.csv").write_text("half a li")
    (every_kind / "sweep" / "run1" / "finetune.csv").write_text("")
    runs = {run.key: run for run in load_runs(every_kind)}
    assert len(runs) == 11
    assert runs["trouble/damaged"].status == "damaged"
    assert "cannot be read" in runs["trouble/damaged"].record["error"]["message"]
    assert runs["sweep/run0"].layers.empty
    assert "layers.csv" in runs["sweep/run0"].faults[0]
    assert runs["sweep/run1"].finetune.empty
    assert "finetune.csv" in runs["sweep/run1"].faults[0]
    assert len(runs["sweep/run2"].layers) == 6
    assert runs["sweep/run2"].faults == []


def test_labels_are_of_the_experiment(load):
    runs = load(
        a__1={"params": {"critical_ratio": 0.01}},
        a__2={"params": {"critical_ratio": 0.02}},
        b__1={"params": {"critical_ratio": 0.03}},
    )
    assert [(run.experiment, run.label) for run in runs] == [
        ("a", "CRVQ · λ=0.01"),
        ("a", "CRVQ · λ=0.02"),
        ("b", "CRVQ"),
    ]


def test_oldest_first_and_keys_are_unique(load):
    later, sooner = ({"started": f"2025-01-0{day}T00:00:00+00:00"} for day in (2, 1))
    runs = load(a__x=later, a__y=sooner, b__x=later)
    assert [run.key for run in runs] == ["a/y", "a/x", "b/x"]


def test_one_experiment(every_kind):
    assert {run.experiment for run in load_runs(every_kind, "sweep")} == {"sweep"}


def test_a_column_that_is_not_known_does_no_harm(save_run):
    results = save_run("a/1", rows=[layer(0, bit_parts={"codes": 64.0, "masks": 2.0})])
    assert load_runs(results)[0].layers["bits_masks"].tolist() == [2.0]


def test_no_runs_say_what_to_do(every_kind, tmp_path):
    with pytest.raises(NoRunsError, match=r"'swep'.*sweep, trouble"):
        raise no_runs(every_kind, "swep")
    assert "There is no folder" in str(no_runs(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "holds no runs" in str(no_runs(tmp_path / "empty"))
    assert "python run.py" in str(no_runs(tmp_path / "empty"))


def test_shipped_runs_are_told_apart_and_give_way_to_own_ones(save_run):
    results = save_run("a/1", params={"critical_ratio": 0.01})
    save_run("a/2", params={"critical_ratio": 0.02}, status="failed")
    (results / "reference").mkdir()
    (results / "a").rename(results / "reference" / "a")
    save_run("a/1", params={"critical_ratio": 0.01})
    save_run("a/3", params={"critical_ratio": 0.03})
    labels = {run.key: run.label for run in load_runs(results)}
    assert labels == {
        "a/1": "CRVQ · λ=0.01",
        "reference/a/2": "CRVQ · λ=0.02 · reference",
        "a/3": "CRVQ · λ=0.03",
    }
    assert {run.key for run in load_runs(results, reference=False)} == {"a/1", "a/3"}
    shipped = load_runs(results / "reference")
    assert [run.label for run in shipped] == ["CRVQ · λ=0.01", "CRVQ · λ=0.02"]
