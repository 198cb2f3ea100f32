import math
import statistics

import pytest

from crvq.report.claims.seed_noise import ASSUMED_SIGMA, SeedNoise
from crvq.report.settings import over_seeds

LABEL = "wiki, 64"
TUNED = {"finetune": {"block": {"epochs": 2}}}
CALM = (50.0, 51.0, 52.0)
WILD = (400.0, 500.0, 700.0)


def seeds(make_run, values, config=None, **params):
    return [
        make_run(value, config={"seed": n, **(config or {})}, **params)
        for n, value in enumerate(values)
    ]


def spread(*groups):
    """Pooled standard deviation of ln perplexity."""
    variances = [statistics.variance(map(math.log, values)) for values in groups]
    return math.sqrt(statistics.mean(variances))


def sigma(runs, index=-1):
    row = over_seeds(runs).to_dict("records")[index]
    return SeedNoise(runs).sigma(row, LABEL)


def test_it_is_assumed_until_seeds_say(runs_of, make_run):
    assert sigma(runs_of(*seeds(make_run, (50.0, 500.0)))) == ASSUMED_SIGMA  # too few to know
    assert sigma(runs_of(*seeds(make_run, CALM))) == pytest.approx(spread(CALM))


def test_it_is_that_of_models_damaged_as_much(runs_of, make_run):
    runs = runs_of(
        *seeds(make_run, CALM),
        *seeds(make_run, WILD, group_size=16),
        make_run(60.0, reorder="none"),
        make_run(600.0, reorder="none", group_size=16),
    )
    assert sigma(runs, -2) == pytest.approx(spread(CALM))
    assert sigma(runs, -1) == pytest.approx(spread(WILD))


def test_it_is_that_of_the_same_stages_of_fine_tuning(runs_of, make_run):
    shaken = (40.0, 50.0, 60.0)
    runs = runs_of(
        *seeds(make_run, shaken),
        *seeds(make_run, CALM, config=TUNED),
        make_run(50.0, config=TUNED, reorder="none"),
    )
    assert sigma(runs) == pytest.approx(spread(CALM))


def test_it_is_pooled_where_nothing_alike_was_repeated(runs_of, make_run):
    runs = runs_of(
        *seeds(make_run, CALM),
        *seeds(make_run, WILD, group_size=16),
        make_run(9e9, reorder="none"),
    )
    assert sigma(runs) == pytest.approx(spread(CALM, WILD))


def test_settings_do_not_spread_each_other(runs_of, make_run):
    far = [make_run(10.0**n, group_size=n + 1) for n in range(5)]
    assert sigma(runs_of(*far)) == ASSUMED_SIGMA


def test_infinite_perplexities_do_not_count(runs_of, make_run):
    assert sigma(runs_of(*seeds(make_run, (math.inf,) * 5))) == ASSUMED_SIGMA


def test_the_error_of_a_mean_is_that_of_its_measured_runs(runs_of, make_run):
    runs = runs_of(*seeds(make_run, CALM), *seeds(make_run, [{}], config={"seed": 9}))
    row = over_seeds(runs).to_dict("records")[0]
    assert SeedNoise(runs).error(row, LABEL) == pytest.approx(spread(CALM) / math.sqrt(3))


def test_the_rule_names_the_fallback(runs_of, make_run):
    assert "an assumed 0.05" in SeedNoise(runs_of()).in_words()
    runs = runs_of(*seeds(make_run, CALM))
    assert f"of all repeated settings ({spread(CALM):.3f})" in SeedNoise(runs).in_words()
