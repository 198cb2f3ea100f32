import json
import re

import pytest
from pydantic import create_model

from crvq.config import (
    BudgetConfig,
    EvalConfig,
    ModelConfig,
    PerplexityConfig,
    StrictModel,
)
from crvq.config.finetune import FINETUNE_REVISION, BlockConfig, FinetuneConfig
from crvq.config.model import WheelPart
from crvq.tracking.run_id import NOT_IDENTITY, algorithm, quantization_fingerprint_config, run_id

PERPLEXITY = EvalConfig(perplexity={"wiki": PerplexityConfig(context=64)})


def test_the_top_level_keys_that_are_left_out():
    assert {"eval", "tracking", "experiment", "force", "if_locked", "reuse"} <= NOT_IDENTITY
    assert not NOT_IDENTITY & {"seed", "device", "model", "method", "method_params", "calibration"}


def test_measurements_do_not_change_the_id(make_config):
    """A run is its quantized model; measurements are added to its record."""
    assert run_id(make_config(eval=PERPLEXITY)) == run_id(make_config())


def test_another_revision_of_an_algorithm_is_another_run(make_config, monkeypatch):
    now = run_id(make_config())
    assert algorithm(make_config()).keys() == {"crvq", "solver"}
    monkeypatch.setattr(
        "crvq.tracking.run_id.algorithm_revisions", lambda name: {name: 1, "solver": 1}
    )
    before = run_id(make_config())
    assert before != now
    assert before.rpartition("-")[0] == now.rpartition("-")[0]


def test_the_revision_of_training_counts_only_where_it_is_asked_for(make_config, monkeypatch):
    trained = FinetuneConfig(block=BlockConfig(learning_rate=0.01, epochs=1))
    ids = [run_id(make_config()), run_id(make_config(finetune=trained))]
    assert algorithm(make_config(finetune=trained))["finetune"] == FINETUNE_REVISION
    monkeypatch.setattr("crvq.tracking.run_id.FINETUNE_REVISION", FINETUNE_REVISION + 1)
    again = [run_id(make_config()), run_id(make_config(finetune=trained))]
    assert ids[0] == again[0]
    assert ids[1] != again[1]


def test_method_params_change_the_id(make_config, make_params):
    ids = {run_id(make_config(method_params=make_params(critical_ratio=r))) for r in (0.01, 0.02)}
    assert len(ids) == 2


def test_one_and_one_point_zero_are_the_same_run(make_config, make_params):
    one, same = (make_config(method_params=make_params(critical_ratio=r)) for r in (1, 1.0))
    assert run_id(one) == run_id(same)


def test_what_is_said_of_a_training_that_is_not_asked_for_is_not_hashed(make_config):
    assert run_id(make_config(finetune=FinetuneConfig(samples=50))) == run_id(make_config())


def test_a_budget_that_may_be_another_is_another_run(make_config):
    budgets = [BudgetConfig(bits=1.0, if_infeasible=how) for how in ("error", "nearest")]
    assert len({run_id(make_config(budget=budget)) for budget in budgets}) == 2


def test_labels_and_the_device_number_are_not_hashed(make_config):
    model = ModelConfig(name="other", source="path", path="models/tiny")
    digests = {
        run_id(make_config(**change))[-12:]
        for change in (
            {},
            {"model": model},
            {"model": model, "experiment": "other"},
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


def test_the_fingerprint_is_what_the_id_is_made_of(make_config, make_params):
    base = quantization_fingerprint_config(make_config())
    json.dumps(base, allow_nan=False)
    assert quantization_fingerprint_config(make_config(eval=PERPLEXITY)) == base
    assert quantization_fingerprint_config(make_config(seed=1)) != base
    assert base["algorithm"] == algorithm(make_config())
