"""Defaults are stated once, in the typed classes."""

import pytest
from omegaconf import OmegaConf

from crvq.cli.config_store import defaults
from crvq.cli.typed_config import typed_config
from crvq.config.finetune import BlockConfig, EndToEndConfig
from crvq.methods import method_names, method_params
from tests.conftest import ROOT


@pytest.mark.parametrize("name", method_names())
def test_a_method_without_more_is_its_class_without_more(name, compose_config):
    typed = typed_config(compose_config(f"method={name}"))
    assert typed.method_params == method_params(name)()


@pytest.mark.parametrize("name", method_names())
def test_no_preset_states_a_default(name):
    shown = defaults(method_params(name))
    bases = {f"_{name}"}
    for file in sorted((ROOT / "conf/method").glob("*.yaml")):
        preset = OmegaConf.to_container(OmegaConf.load(file))
        if set(preset.get("defaults", [])) & bases:
            assert all(shown[key] != value for key, value in preset.get(name, {}).items())


@pytest.mark.parametrize("option", ["block", "block_e2e", "paper"])
def test_every_key_of_a_stage_is_known(option, compose_config):
    stages = {"block": BlockConfig} if option == "block" else {
        "block": BlockConfig, "end_to_end": EndToEndConfig
    }  # fmt: skip
    finetune = compose_config(f"finetune={option}").finetune
    for stage, model in stages.items():
        assert set(finetune[stage]) == set(model.model_fields)


def test_keys_of_everything_are_known(compose_config):
    composed = compose_config("eval=everything", "eval.generation.max_new_tokens=5")
    assert composed.eval.generation.max_new_tokens == 5
    assert composed.eval.agreement.max_windows == 8


def test_any_budget_is_a_number(compose_config):
    typed = typed_config(compose_config("budget.bits=2.37"))
    assert typed.budget.bits == 2.37
    assert typed_config(compose_config("budget=layout")).budget.bits is None
