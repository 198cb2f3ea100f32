from crvq.report.dashboard.settings import finetuned, same_settings


def test_runs_that_differ_in_seeds_alone_are_one_setting(load):
    seeds = {"seed": 1, "calibration": {"seed": 1, "shuffle_seed": 1}}
    runs = load(
        a__1={"config": {"calibration": {"seed": 0, "shuffle_seed": 0}}},
        a__2={"config": seeds},
        a__3={"config": seeds, "params": {"critical_ratio": 0.5}},
    )
    first, second, third = same_settings(runs)
    assert first == second != third


def test_what_is_evaluated_makes_no_setting_but_the_device_does(load):
    runs = load(
        a__1={"device": "cpu", "config": {"eval": {"batch": 1}}},
        a__2={"device": "cpu", "config": {"eval": {"batch": 2}}},
        a__3={"device": "cuda:0"},
    )
    first, second, third = same_settings(runs)
    assert first == second != third


def test_runs_without_a_configuration_are_settings_of_their_own(load):
    runs = load(a__1={}, a__2={})
    for run in runs:
        run.record = {"status": "damaged"}
    assert len(set(same_settings(runs))) == 2


def test_the_stages_of_fine_tuning_and_none(make_record):
    tuned = {"finetune": {"block": {"epochs": 1}, "end_to_end": None}}
    assert finetuned(make_record(config=tuned)) == "block"
    assert finetuned(make_record()) is None
    assert finetuned({"status": "damaged"}) is None
