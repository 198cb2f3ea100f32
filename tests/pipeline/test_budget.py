import pytest

from crvq.errors import ConfigError
from crvq.methods.budget import BudgetError
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record


@pytest.mark.parametrize("method", ["gptq", "aqlm"])
def test_a_run_keeps_its_budget_and_says_what_it_used(method, compose_method_run):
    record = read_record(run(compose_method_run(f"method={method}", "budget.bits=5")))
    assert 5 * 0.8 <= record["bits"]["average_quantized_weights"] <= 5 * 1.03
    assert record["effective"]
    asked = record["config"]["method_params"]
    assert all(asked[name] != value for name, value in record["effective"].items())


def test_a_budget_out_of_reach_fails_before_anything_is_quantized(compose_method_run):
    with pytest.raises(ConfigError, match="nearest that it can reach"):
        run(compose_method_run("method=gptq", "budget.bits=0.1"))


def test_a_budget_out_of_reach_may_become_the_nearest(compose_method_run):
    asked = compose_method_run("method=gptq", "budget.bits=0.1", "budget.if_infeasible=nearest")
    record = read_record(run(asked))
    with pytest.raises(BudgetError) as error:
        run(compose_method_run("method=gptq", "budget.bits=0.1"))
    average = record["bits"]["average_quantized_weights"]
    assert error.value.nearest * 0.8 <= average <= error.value.nearest * 1.03


@pytest.fixture
def compose_method_run(tiny_overrides, compose_config):
    """A tiny run of any method."""
    from crvq.cli.typed_config import typed_config

    kept = [o for o in tiny_overrides if not o.startswith("crvq.")]
    return lambda *overrides: typed_config(compose_config(*kept, *overrides))
