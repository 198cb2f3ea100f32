import pandas as pd
import pytest

from crvq.report.layout_names import layout_name, name_settings, preset_name
from crvq.report.settings import over_seeds


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("crvq", {}, "CRVQ-paper"),
        ("crvq", {"extended_bits": 6}, "CRVQ 1x8 g8 + 3x6, λ=0.02"),
        ("crvq", {"critical_ratio": 0.0}, "CRVQ 1x8 g8"),
        ("crvq", {"extended_codebooks": 0}, "CRVQ 1x8 g8"),
        ("aqlm", {"codebooks": 2, "codebook_bits": 8, "group_size": 8}, "AQLM 2x8 g8"),
        ("gptvq", {"vector_size": 2, "codebook_bits": 4}, "GPTVQ 2D 4 bit"),
        ("gptq", {"bits": 3, "group_size": 128}, "GPTQ 3 bit g128"),
        ("rtn", {"bits": 3, "group_size": None}, "RTN 3 bit whole rows"),
        ("billm", {"most_salient": 0.383, "splitting": True}, "BiLLM ≤38.3 % salient"),
        (
            "pb_llm",
            {"salient_ratio": 0.1, "salient_bits": 8, "salient_metric": "hessian"},
            "PB-LLM 10 % in 8 bits by hessian",
        ),
        ("mine", {"knob": 3}, "mine"),
    ],
)
def test_layouts_in_the_notation_of_papers(runs_of, make_record, make_run, method, params, name):
    record = make_run(method=method)
    record["config"]["method_params"] |= params
    # Beside another method, whose gaps make numbers floats.
    settings = over_seeds(runs_of(record, make_run(method="other", what=1)))
    assert name_settings(settings)[0] == name


def test_after_the_layout_comes_what_differs_within_it(runs_of, make_run):
    runs = runs_of(
        make_run(), make_run(reorder="none"), make_run(reorder="stratified"), make_run(group_size=4)
    )
    assert name_settings(over_seeds(runs)) == [
        "CRVQ-paper",
        "CRVQ 1x8 g8 + 3x8, λ=0.02 · reorder=none",
        "CRVQ 1x8 g8 + 3x8, λ=0.02 · reorder=stratified",
        "CRVQ 1x8 g4 + 3x8, λ=0.02",
    ]


def test_models_do_not_make_names_longer(runs_of, make_run):
    runs = runs_of(make_run(model="small"), make_run(model="large"))
    assert set(name_settings(over_seeds(runs))) == {"CRVQ-paper"}


def test_nothing_differs_but_what_is_not_told(runs_of, make_run):
    settings = over_seeds(runs_of(make_run(method="aqlm", codebooks=1)))
    twice = name_settings(pd.concat([settings, settings], ignore_index=True))
    assert twice == ["aqlm", "aqlm"]


def test_a_budget_chose_the_layout(runs_of, make_run):
    runs = runs_of(make_run(record={"effective": {"group_size": 16, "critical_ratio": 0.014}}))
    assert name_settings(over_seeds(runs)) == ["CRVQ 1x8 g16 + 3x8, λ=0.02"]


def test_the_critical_ratio_can_be_left_out(runs_of, make_run):
    ratios = (0.0, 0.01, 0.02)
    rows = runs_of(*(make_run(critical_ratio=ratio) for ratio in ratios)).to_dict("records")
    names = [layout_name(row, ratio=False) for row in rows]
    assert names == ["CRVQ 1x8 g8", "CRVQ 1x8 g8 + 3x8", "CRVQ 1x8 g8 + 3x8"]


@pytest.mark.parametrize(
    ("preset", "name"), [("crvq_paper", "CRVQ-paper"), ("crvq_1bit", "CRVQ-1bit"), ("crvq", None)]
)
def test_presets_are_those_of_the_configuration(compose_config, preset, name):
    params = dict(compose_config(f"method={preset}").crvq)
    settings = {f"config.method_params.{key}": value for key, value in params.items()}
    row = {"method": "crvq", "settings": settings, "effective_values": {"critical_ratio": 0.0139}}
    assert preset_name(row) == name


def test_a_preset_with_other_limits_says_them_where_rows_differ(runs_of, make_run):
    runs = runs_of(make_run(max_rounds=50), make_run(max_rounds=8))
    names = name_settings(over_seeds(runs))
    assert names == ["CRVQ-paper · max_rounds=50", "CRVQ-paper · max_rounds=8"]
    assert name_settings(over_seeds(runs.iloc[:1])) == ["CRVQ-paper"]
