import statistics
import warnings

import pandas as pd
import pytest

from crvq.report.settings import of_one_device, over_seeds, with_relative_loss

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
