import pandas as pd
import pytest

from crvq.report.layout_names import layout_name, name_settings
from crvq.report.notation import preset_layouts
from crvq.report.settings import over_seeds


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("crvq", {}, "CRVQ-paper"),
        ("crvq", {"extended_bits": 6}, "CRVQ 1x8 g8 + 3x6"),
        ("crvq", {"critical_ratio": 0.0}, "CRVQ 1x8 g8"),
        ("crvq", {"extended_codebooks": 0}, "CRVQ 1x8 g8"),
        ("aqlm", {"codebooks": 2, "codebook_bits": 8, "group_size": 8}, "AQLM 2x8"),
        ("gptvq", {"vector_size": 2, "codebook_bits": 4}, "GPTVQ 2D 4 bit"),
        ("gptq", {"bits": 3, "group_size": 128}, "GPTQ 3 bit g128"),
        ("rtn", {"bits": 3, "group_size": None}, "RTN 3 bit"),
        ("billm", {"most_salient": 0.383, "splitting": True}, "BiLLM ≤38.3 % salient"),
        (
            "pb_llm",
            {"salient_ratio": 0.1, "salient_bits": 8, "salient_metric": "hessian"},
            "PB-LLM 10 % 8 bit hessian",
        ),
        ("mine", {"knob": 3}, "MINE"),
    ],
)
def test_layouts_in_the_notation_of_papers(runs_of, make_record, make_run, method, params, name):
    record = make_run(method=method)
    record["config"]["method_params"] |= params
    # Beside another method, whose gaps make numbers floats.
    settings = over_seeds(runs_of(record, make_run(method="other", what=1)))
    assert name_settings(settings)[0] == name


def test_after_the_name_comes_what_differs_among_rows_of_that_name(runs_of, make_run):
    runs = runs_of(
        make_run(), make_run(reorder="none"), make_run(reorder="stratified"), make_run(group_size=4)
    )
    assert name_settings(over_seeds(runs)) == [
        "CRVQ-paper · reorder=sorted",
        "CRVQ-paper · reorder=none",
        "CRVQ-paper · reorder=stratified",
        "CRVQ 1x8 g4 + 3x8",
    ]


def test_what_rows_share_is_not_named_but_no_preset_is_claimed(runs_of, make_run):
    runs = runs_of(make_run(reorder="none"), make_run(reorder="none", group_size=16))
    names = name_settings(over_seeds(runs))
    assert names == ["CRVQ 1x8 g8 + 3x8", "CRVQ 1x8 g16 + 3x8"]


def test_many_keys_are_as_few_as_tell_rows_apart(runs_of, make_run):
    changes = {"max_rounds": 9, "relative_gain": 0.1, "kmeans_sample": 7, "beam": 2}
    plain = dict.fromkeys(changes, 1)
    names = name_settings(over_seeds(runs_of(make_run(**plain), make_run(**changes))))
    assert names == ["CRVQ-paper · beam=1", "CRVQ-paper · beam=2"]


def test_fine_tuning_is_told_by_its_stages(runs_of, make_run):
    def tuned(rate):
        return make_run(config={"finetune": {"block": {"learning_rate": rate}}})

    names = name_settings(over_seeds(runs_of(make_run(), tuned(0.1))))
    assert names == ["CRVQ-paper · finetune=none", "CRVQ-paper · finetune=block"]
    names = name_settings(over_seeds(runs_of(make_run(), tuned(0.1), tuned(0.2))))
    assert "learning_rate=0.2" in names[2]


def test_a_column_of_its_own_is_not_named(runs_of, make_run):
    settings = over_seeds(runs_of(make_run(), make_run(reorder="none", critical_ratio=0.0)))
    but = ("config.method_params.critical_ratio",)
    names = name_settings(settings, but)
    assert names == ["CRVQ-paper · reorder=sorted", "CRVQ-paper · reorder=none"]


def test_models_do_not_make_names_longer(runs_of, make_run):
    runs = runs_of(make_run(model="small"), make_run(model="large"))
    assert set(name_settings(over_seeds(runs))) == {"CRVQ-paper"}


def test_nothing_differs_but_what_is_not_told(runs_of, make_run):
    settings = over_seeds(runs_of(make_run(method="aqlm", codebooks=1)))
    twice = name_settings(pd.concat([settings, settings], ignore_index=True))
    assert twice == ["AQLM", "AQLM"]


def test_a_budget_chose_the_layout(runs_of, make_run):
    runs = runs_of(make_run(record={"effective": {"group_size": 16, "critical_ratio": 0.014}}))
    assert name_settings(over_seeds(runs)) == ["CRVQ 1x8 g16 + 3x8"]


def test_the_critical_ratio_can_be_left_out(runs_of, make_run):
    ratios = (0.0, 0.01, 0.02)
    rows = runs_of(*(make_run(critical_ratio=ratio) for ratio in ratios)).to_dict("records")
    names = [layout_name(row, ratio=False) for row in rows]
    assert names == ["CRVQ 1x8 g8", "CRVQ 1x8 g8 + 3x8", "CRVQ 1x8 g8 + 3x8"]


@pytest.mark.parametrize(
    ("preset", "name"),
    [("crvq_paper", "CRVQ-paper"), ("crvq_1bit", "CRVQ-1bit"), ("crvq", "CRVQ-2bit")],
)
def test_presets_are_those_of_the_configuration(compose_config, preset, name):
    composed = compose_config(f"method={preset}").crvq
    layout = preset_layouts("crvq")[name]
    assert layout == {key: composed[key] for key in layout}


def test_a_preset_with_other_limits_says_them_where_rows_differ(runs_of, make_run):
    runs = runs_of(make_run(max_rounds=50), make_run(max_rounds=8))
    names = name_settings(over_seeds(runs))
    assert names == ["CRVQ-paper · max_rounds=50", "CRVQ-paper · max_rounds=8"]
    assert name_settings(over_seeds(runs.iloc[:1])) == ["CRVQ-paper"]
