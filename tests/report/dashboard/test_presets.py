from crvq.report.dashboard.sweeps import experiment_summary

PAPER = {"group_size": 8, "codebook_bits": 8, "max_rounds": 50, "reorder": "sorted"}
OURS = {"group_size": 8, "codebook_bits": 8, "max_rounds": 8, "reorder": "stratified"}
SHORT = {"group_size": 4, "codebook_bits": 8, "max_rounds": 8, "reorder": "stratified"}
CRVQ = {"extended_codebooks": 3, "extended_bits": 8, "critical_ratio": 0.02}


def tuned(**stages):
    return {"config": {"finetune": {"block": None, "end_to_end": None, "samples": 8, **stages}}}


def test_a_preset_of_a_method_is_one_axis(load):
    runs = load(
        a__1={"params": {**CRVQ, **PAPER}},
        a__2={"params": {**CRVQ, **OURS}},
        a__3={"params": {**CRVQ, **SHORT}},
    )
    summary = experiment_summary(runs)
    assert summary["axes"] == ["layout"]
    names = [summary["values"][run.key]["layout"] for run in runs]
    assert names == [
        "CRVQ 1x8 g8 + 3x8, λ=0.02 · max_rounds=50 reorder=sorted",
        "CRVQ 1x8 g8 + 3x8, λ=0.02 · max_rounds=8 reorder=stratified",
        "CRVQ 1x8 g4 + 3x8, λ=0.02",
    ]


def test_a_grid_keeps_its_keys(load):
    points = [(d, bits, order) for d in (4, 8) for bits in (4, 8) for order in ("none", "sorted")]
    runs = load(
        **{
            f"a__{number}": {"params": {"group_size": d, "codebook_bits": bits, "reorder": order}}
            for number, (d, bits, order) in enumerate(points[:-1])
        }
    )
    axes = experiment_summary(runs)["axes"]
    assert sorted(axes) == [
        f"method_params.{k}" for k in ("codebook_bits", "group_size", "reorder")
    ]


def test_stages_of_fine_tuning_are_one_axis(load):
    block = {"epochs": 2, "learning_rate": 0.02}
    runs = load(
        a__none=tuned(),
        a__block=tuned(block=block, samples=64),
        a__both=tuned(block=block, end_to_end={"steps": 100}, samples=160),
    )
    summary = experiment_summary(runs)
    assert summary["axes"] == ["finetune"]
    assert {key: row["finetune"] for key, row in summary["values"].items()} == {
        "a/none": "none",
        "a/block": "block",
        "a/both": "block + end to end",
    }


def test_runs_without_a_configuration_stay_without_values(load):
    runs = load(a__1={"params": PAPER}, a__2={"params": OURS}, a__3={"params": SHORT})
    runs[1].record = {"status": "damaged"}
    assert experiment_summary(runs)["values"]["a/2"] == {}


def test_what_only_one_method_has_names_its_variant(load):
    variants = {"salient_metric": "hessian"}, {"salient_metric": "magnitude"}
    runs = load(
        a__1={"config": {"method": "pb"}, "params": variants[0]},
        a__2={"config": {"method": "pb"}, "params": variants[1]},
        a__3={"config": {"method": "rtn"}, "params": {"bits": 2}},
    )
    summary = experiment_summary(runs)
    assert summary["axes"] == ["method"]
    names = {key.split("/")[1]: row["method"] for key, row in summary["values"].items()}
    assert names["1"] == "pb salient_metric=hessian"
    assert names["2"] == "pb salient_metric=magnitude"
    assert names["3"].startswith("rtn")
