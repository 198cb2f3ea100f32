import pytest

from crvq.report.run_labels import differing_values, marked_labels, run_labels, short_names


def test_only_what_differs(make_record):
    records = [make_record(params={"critical_ratio": ratio}) for ratio in (0.0, 0.01, 1)]
    assert run_labels(records) == ["CRVQ · λ=0", "CRVQ · λ=0.01", "CRVQ · λ=1"]


def test_a_single_run_is_named_by_its_method(make_record):
    assert run_labels([make_record()]) == ["CRVQ"]


def test_what_was_used_instead_is_always_said(make_record):
    single = make_record(effective={"critical_ratio": 8 / 576, "groups": 1})
    assert run_labels([single]) == ["CRVQ · λ=0.02 → 0.0139"]
    exact = make_record(effective={"critical_ratio": 0.02})
    assert run_labels([exact]) == ["CRVQ"]


@pytest.mark.parametrize("key", ["experiment", "results_dir", "threads", "tracking"])
def test_what_does_not_change_results_is_no_difference(make_record, key):
    records = [make_record(config={key: value}) for value in ("a", "b")]
    assert run_labels(records) == ["CRVQ", "CRVQ"]


def test_a_models_name_stands_for_where_it_lies(make_record):
    records = [
        make_record(config={"model": {"name": name, "path": f"models/{name}"}})
        for name in ("small", "large")
    ]
    assert run_labels(records) == ["CRVQ (small)", "CRVQ (large)"]


def test_a_models_path_is_shown_when_its_name_does_not_tell(make_record):
    records = [
        make_record(config={"model": {"name": "same", "path": path}, "seed": seed})
        for path, seed in (("a", 0), ("b", 1))
    ]
    assert run_labels(records) == ["CRVQ · path=a seed=0", "CRVQ · path=b seed=1"]


def test_a_method_stands_for_its_own_parameters_but_not_for_swept_ones(make_record):
    other = make_record(config={"method": "gptvq", "method_params": {"group": 4}})
    records = [make_record(params={"codebooks": 1}), make_record(params={"codebooks": 2}), other]
    assert run_labels(records) == [
        "CRVQ · codebooks=1",
        "CRVQ · codebooks=2",
        "GPTVQ",
    ]


def test_ambiguous_keys_are_spelt_out(make_record):
    records = [
        make_record(config={"seed": seed, "calibration": {"seed": other}})
        for seed, other in ((0, 1), (2, 3))
    ]
    assert run_labels(records)[1] == "CRVQ · calibration.seed=3 seed=2"


def test_jobs_without_a_configuration_keep_their_label(make_record):
    records = [make_record(), {"label": "x=7", "status": "failed"}]
    assert run_labels(records) == ["CRVQ", "x=7"]


def test_a_part_that_is_off_elsewhere_is_one_key(make_record):
    def tuned(**block):
        return make_record(config={"finetune": {"block": {"rate": 0.1, **block}}})

    off = make_record(config={"finetune": {"block": None}})
    assert differing_values([off, tuned(epochs=2)]) == [
        {"finetune.block": None},
        {"finetune.block": "on"},
    ]
    assert differing_values([off, tuned(epochs=2), tuned(epochs=3)]) == [
        {"finetune.block": None},
        {"finetune.block": "on", "finetune.block.epochs": 2},
        {"finetune.block": "on", "finetune.block.epochs": 3},
    ]
    assert run_labels([off, tuned(epochs=2)]) == ["CRVQ · finetune=none", "CRVQ · finetune=block"]


def test_keys_are_shortened_where_that_is_clear():
    assert short_names(["method_params.beam", "seed", "calibration.seed", "model.name"]) == {
        "method_params.beam": "beam",
        "seed": "seed",
        "calibration.seed": "calibration.seed",
        "model.name": "model",
    }


def test_keys_that_change_no_result_are_no_names(make_record):
    def tuned(**knobs):
        return make_record(config={"finetune": {"end_to_end": {"epochs": 2, **knobs}}})

    records = [tuned(microbatch=1, save_every=5), tuned(microbatch=4, save_every=50)]
    assert differing_values(records) == [{}, {}]


def test_reused_records_are_marked(make_record):
    records = [make_record(params={"critical_ratio": ratio}) for ratio in (0.0, 0.01)]
    marked = marked_labels([records[0], {**records[1], "reused": True}])
    assert marked == ["CRVQ · λ=0", "CRVQ · λ=0.01 (reused)"]


def test_a_given_name_wins_and_seeds_of_it_are_told_apart(make_record):
    def named(name, seed):
        return make_record(config={"run": {"name": name}, "seed": seed})

    records = [named("mine", 0), named("mine", 1), named("other", 0), make_record()]
    assert run_labels(records) == ["mine · seed=0", "mine · seed=1", "other", "CRVQ"]


def test_other_methods_values_are_not_told(make_record):
    """A sweep over methods and seeds: a method's own parameters follow from its name."""
    records = [
        make_record(config={"seed": seed, "method": method, "method_params": params})
        for method, params in (("aqlm", {"beam": 1}), ("gptvq", {"group": 4}))
        for seed in (0, 1)
    ]
    assert run_labels(records) == [
        f"{name} · seed={seed}" for name in ("AQLM", "GPTVQ") for seed in (0, 1)
    ]
