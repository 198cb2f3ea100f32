import json
import re

import pytest
from pydantic import create_model

from crvq.config import (
    BudgetConfig,
    CalibrationConfig,
    EvalConfig,
    ModelConfig,
    PerplexityConfig,
    RunConfig,
    StrictModel,
    TrackingConfig,
)
from crvq.config.finetune import BlockConfig, FinetuneConfig
from crvq.config.model import WheelPart
from crvq.tracking.run_id import NOT_IDENTITY, quantization_fingerprint_config, run_id

PERPLEXITY = EvalConfig(perplexity={"wiki": PerplexityConfig(context=64)})
CHANGES = {
    "model": ModelConfig(name="tiny", source="path", path="models/other"),
    "budget": BudgetConfig(bits=2.0),
    "method": "gptvq",
    "calibration": CalibrationConfig(samples=3),
    "finetune": FinetuneConfig(block=BlockConfig(learning_rate=0.01, epochs=1)),
    "seed": 1,
    "activation_dtype": "float32",
    "device": "cuda",
}
IRRELEVANT = {
    "experiment": "other",
    "force": True,
    "results_dir": "elsewhere",
    "cache_dir": "cache",
    "tracking": TrackingConfig(mode="disabled"),
    "threads": 7,
    "eval": PERPLEXITY,  # a run is its quantized model; measurements are added to its record
    "eval_only": "results/default/r1",
}


def test_every_field_is_decided_on():
    # A field added to RunConfig must be put in one of the two lists above, with thought.
    assert CHANGES.keys() | {"method_params"} | IRRELEVANT.keys() == set(RunConfig.model_fields)
    assert IRRELEVANT.keys() == NOT_IDENTITY


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_results_changes_the_id(make_config, key):
    assert run_id(make_config(**{key: CHANGES[key]})) != run_id(make_config())


def test_method_params_change_the_id(make_config, make_params):
    ids = {run_id(make_config(method_params=make_params(critical_ratio=r))) for r in (0.01, 0.02)}
    assert len(ids) == 2


@pytest.mark.parametrize("key", IRRELEVANT)
def test_the_rest_does_not(make_config, key):
    assert run_id(make_config(**{key: IRRELEVANT[key]})) == run_id(make_config())


def test_one_and_one_point_zero_are_the_same_run(make_config, make_params):
    one, same = (make_config(method_params=make_params(critical_ratio=r)) for r in (1, 1.0))
    assert run_id(one) == run_id(same)


def test_what_is_said_of_a_training_that_is_not_asked_for_is_not_hashed(make_config):
    assert run_id(make_config(finetune=FinetuneConfig(samples=50))) == run_id(make_config())


def test_a_budget_that_may_be_another_is_another_run(make_config):
    budgets = [BudgetConfig(bits=1.0, out_of_reach=how) for how in ("error", "nearest")]
    assert len({run_id(make_config(budget=budget)) for budget in budgets}) == 2


def test_labels_and_the_device_number_are_not_hashed(make_config):
    model = ModelConfig(name="other", source="path", path="models/tiny")
    digests = {
        run_id(make_config(**change))[-12:]
        for change in (
            {},
            {"model": model},
            {"budget": BudgetConfig(name="b")},
        )
    }
    assert len(digests) == 1
    assert run_id(make_config(device="cuda:1")) == run_id(make_config(device="cuda"))


def test_an_embedded_model_is_its_wheels(make_config):
    def digest(*parts):
        model = ModelConfig(name="m", source="embedded", wheels=parts)
        return run_id(make_config(model=model))

    one, other = (
        WheelPart(requirement="model==1.0", sha256=digit * 64, member="part") for digit in "01"
    )
    assert len({digest(), digest(one), digest(other), digest(one, other)}) == 4


def test_order_of_declaration_does_not_matter(make_config):
    def params(*names):
        model = create_model("P", __base__=StrictModel, **dict.fromkeys(names, (int, 1)))
        return make_config(method_params=model())

    assert run_id(params("a", "b")) == run_id(params("b", "a"))


def test_form_is_safe_for_folders_and_wandb(make_config):
    model = ModelConfig(name="org/Some Model:" + "x" * 90, source="hub", repo="o/n")
    name = run_id(make_config(model=model))
    assert re.fullmatch(r"[\w.]+-crvq-[0-9a-f]{12}", name)
    assert len(name) <= 64


def test_untyped_parameters_are_refused(make_config):
    with pytest.raises(TypeError, match="dict"):
        run_id(make_config(method_params={"critical_ratio": 1}))


def test_fingerprint_ignores_evaluation_only(make_config):
    base = quantization_fingerprint_config(make_config())
    json.dumps(base, allow_nan=False)
    assert quantization_fingerprint_config(make_config(eval=PERPLEXITY)) == base
    for key in CHANGES:
        assert quantization_fingerprint_config(make_config(**{key: CHANGES[key]})) != base
