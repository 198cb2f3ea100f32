import pytest

from crvq.finetune.training import rate_factor


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_factors_rise_to_one_and_never_above(schedule, steps, warmup):
    factors = [rate_factor(schedule, warmup, step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert top <= warmup * steps
    assert factors[top] == pytest.approx(1.0, abs=0.02 if steps == 100 else 1.0)


def test_cosine_reaches_zero_and_constant_does_not():
    assert rate_factor("cosine", 0.1, 999, 1000) < 1e-4
    assert rate_factor("constant", 0.1, 999, 1000) == 1.0


def test_cosine_is_half_way_down_half_way_through():
    assert rate_factor("cosine", 0.0, 50, 100) == pytest.approx(0.5)
