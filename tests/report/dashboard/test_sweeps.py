from crvq.report.dashboard.sweeps import experiment_summary, is_seed, sweep_axes


def test_only_differing_keys_are_axes(load):
    runs = load(
        a__1={"params": {"critical_ratio": 0.01, "codebooks": 4}},
        a__2={"params": {"critical_ratio": 0.02, "codebooks": 4}},
    )
    summary = experiment_summary(runs)
    assert summary["axes"] == ["method_params.critical_ratio"]
    assert summary["values"] == {
        "a/1": {"method_params.critical_ratio": 0.01},
        "a/2": {"method_params.critical_ratio": 0.02},
    }
    assert summary["runs"] == ["a/1", "a/2"]


def test_the_best_axis_first_numbers_then_many_values_seeds_last():
    rows = [
        {"method": f"m{n}", "few": float(n % 2), "many": n, "calibration.seed": n} for n in range(4)
    ]
    values = {str(n): row for n, row in enumerate(rows)}
    assert sweep_axes(values) == ["many", "few", "method", "calibration.seed"]


def test_what_is_numeric(load):
    runs = load(
        a__1={"params": {"beam": 1, "reorder": "none", "flag": True, "cap": None}},
        a__2={"params": {"beam": 2.5, "reorder": "sorted", "flag": False, "cap": 3}},
    )
    summary = experiment_summary(runs)
    assert summary["numeric"] == ["method_params.beam"]
    assert len(summary["axes"]) == 4


def test_seeds_are_named(load):
    runs = load(a__1={"config": {"seed": 0}}, a__2={"config": {"seed": 1}})
    summary = experiment_summary(runs)
    assert summary["axes"] == summary["seeds"] == ["seed"]


def test_damaged_runs_have_no_values(load):
    runs = load(a__1={}, a__2={})
    runs[0].record = {"status": "damaged"}
    assert experiment_summary(runs)["values"] == {"a/1": {}, "a/2": {}}


def test_values_that_are_no_numbers_or_texts_become_text(load):
    runs = load(a__1={"params": {"skip": ["a"]}}, a__2={"params": {"skip": ["a", "b"]}})
    values = experiment_summary(runs)["values"]
    assert [row["method_params.skip"] for row in values.values()] == ["['a']", "['a', 'b']"]


def test_every_kind_of_seed_is_one():
    seeds = [key for key in ("seed", "calibration.shuffle_seed", "seeds_kept") if is_seed(key)]
    assert seeds == ["seed", "calibration.shuffle_seed"]


def test_axes_have_short_names_where_these_are_clear(load):
    runs = load(
        a__1={"params": {"critical_ratio": 0.1}, "config": {"seed": 0, "calibration": {"seed": 0}}},
        a__2={"params": {"critical_ratio": 0.2}, "config": {"seed": 1, "calibration": {"seed": 2}}},
    )
    assert experiment_summary(runs)["names"] == {
        "method_params.critical_ratio": "critical_ratio",
        "seed": "seed",
        "calibration.seed": "calibration.seed",
    }
