import statistics
import warnings

import pandas as pd
import pytest

from crvq.report.settings import of_one_device, over_seeds, setting_labels, with_relative_loss

COLUMN = "perplexity: wiki, 64"


def test_mean_and_spread_over_seeds(runs_of, make_run):
    values = [50.0, 53.0, 58.0]
    runs = [make_run(value, config={"seed": n}) for n, value in enumerate(values)]
    settings = over_seeds(runs_of(*runs, make_run(90.0, reorder="stratified")))
    assert settings["runs"].tolist() == [3, 1]
    assert settings[COLUMN].tolist() == pytest.approx([statistics.mean(values), 90.0])
    spreads = settings[f"{COLUMN} std"]
    assert spreads[0] == pytest.approx(statistics.stdev(values))
    assert pd.isna(spreads[1])
    assert settings["run_ids"][0].split() == [run["run_id"] for run in runs]


def test_many_columns_bring_no_warning(runs_of, make_run):
    """Of pandas, about frames with a block a column."""
    many = {f"key{n}": [n] for n in range(150)}  # columns of objects are blocks of their own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        over_seeds(runs_of(make_run(**many), make_run(**many, config={"seed": 1})))


def test_no_runs_are_no_settings():
    assert over_seeds(pd.DataFrame()).empty


def test_labels_tell_what_differs(runs_of, make_run):
    settings = over_seeds(runs_of(make_run(), make_run(reorder="none", critical_ratio=0.0)))
    assert setting_labels(settings) == [
        "critical_ratio=0.02 reorder=sorted",
        "critical_ratio=0 reorder=none",
    ]
    but = ("config.method_params.critical_ratio",)
    assert setting_labels(settings, but) == ["reorder=sorted", "reorder=none"]


def test_labels_tell_what_was_really_used(runs_of, make_run):
    record = {"effective": {"critical_ratio": 0.013888}}
    settings = over_seeds(runs_of(make_run(record=record), make_run(reorder="none")))
    assert setting_labels(settings)[0] == "reorder=sorted critical_ratio=0.02 → 0.0139"


def test_fine_tuning_is_told_by_its_stages(runs_of, make_run):
    def tuned(rate, **stages):
        return make_run(config={"finetune": {"block": {"learning_rate": rate}, **stages}})

    settings = over_seeds(runs_of(make_run(), tuned(0.1)))
    assert setting_labels(settings) == ["finetune=none", "finetune=block"]
    settings = over_seeds(runs_of(make_run(), tuned(0.1), tuned(0.2)))
    assert "learning_rate=0.2" in setting_labels(settings)[2]


def test_relative_loss_is_the_mean_over_linears(runs_of, make_run):
    record = make_run()
    layers = pd.DataFrame({"folder": [record["run_id"]] * 2, "relative_loss": [0.25, 0.75]})
    assert with_relative_loss(runs_of(record), layers)["relative_loss"].tolist() == [0.5]


def test_relative_loss_is_not_that_of_another_device(runs_of, make_run):
    runs = runs_of(make_run()).assign(folder="on_cpu/r")
    layers = pd.DataFrame({"run_id": runs["run_id"][0], "folder": ["on_cpu/r", "on_gpu/r"]})
    layers["relative_loss"] = [0.25, 0.75]
    assert with_relative_loss(runs, layers)["relative_loss"].tolist() == [0.25]


def test_what_one_device_measured_most_often():
    known = pd.DataFrame(
        {
            "config.device": ["cuda", "cpu", "cpu", "cuda", "cuda"],
            "full": [1.0, 2.0, 4.0, None, None],
        }
    )
    assert of_one_device(known, "full") == 3.0
    assert pd.isna(of_one_device(known[3:], "full"))
