import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.binary import binary_scales, break_point, salient_columns, signed


def draw(out, columns, seed=0):
    return torch.randn(out, columns, generator=torch.Generator().manual_seed(seed))


def squared_error(weight, mask):
    """Of each row's masked weights as plus or minus their mean magnitude, by its definition."""
    total = 0.0
    for row, kept in zip(weight.double(), mask, strict=True):
        some = row[kept]
        if len(some):
            total += float((some - some.abs().mean() * some.sign()).square().sum())
    return total


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_the_scale_is_the_best_for_any_choice_of_signs(columns):
    """Least squares over all sign patterns, each with its own best scale."""
    row = draw(1, columns)
    scales, centres = binary_scales(row, torch.ones_like(row, dtype=torch.bool), centred=False)
    best = min(
        float((row.double() - (row.double() @ s) / (s @ s) * s).square().sum())
        for s in (
            torch.tensor(p, dtype=torch.float64) for p in itertools.product((1, -1), repeat=columns)
        )
    )
    ours = float((row.double() - scales.double() * row.sign()).square().sum())
    assert ours == pytest.approx(best, rel=1e-5, abs=1e-6)
    assert not centres.any()


def test_masks_of_columns_and_of_weights_agree_and_the_rest_does_not_matter():
    weight, mask = draw(4, 10), torch.arange(10) % 3 == 0
    by_column = binary_scales(weight, mask, centred=True)
    by_weight = binary_scales(weight, mask.expand(4, -1), centred=True)
    alone = binary_scales(weight[:, mask], torch.ones(4, 4, dtype=torch.bool), centred=True)
    for first, second, third in zip(by_column, by_weight, alone, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, third, rtol=1e-3, atol=1e-3)


def test_centres_help_where_weights_are_not_centred():
    weight, mask = draw(5, 20) + 3, torch.ones(5, 20, dtype=torch.bool)
    errors = []
    for centred in (False, True):
        scales, centres = binary_scales(weight, mask, centred)
        values = centres[:, None] + scales[:, None] * signed(weight >= centres[:, None])
        errors.append(float((weight - values).square().sum()))
    assert errors[1] < 0.8 * errors[0]


def test_no_weights_and_huge_weights_give_finite_numbers():
    scales, centres = binary_scales(draw(2, 3), torch.zeros(3, dtype=torch.bool), centred=True)
    assert not scales.any()
    assert not centres.any()
    scales, _ = binary_scales(draw(2, 3) * 1e9, torch.ones(3, dtype=torch.bool), centred=True)
    assert torch.isfinite(scales).all()
    assert torch.equal(scales, scales.half().float())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 9), st.integers(0, 99))
def test_as_many_columns_are_salient_as_brute_force_likes_best(out, columns, most, seed):
    weight, saliency = draw(out, columns, seed), draw(1, columns, seed + 1)[0]
    weight[:, 0] *= 5
    order = saliency.argsort(descending=True)

    def error(count):
        salient = torch.zeros(columns, dtype=torch.bool)
        salient[order[:count]] = True
        both = (salient, ~salient)
        return sum(squared_error(weight, mask.expand_as(weight)) for mask in both)

    chosen = salient_columns(weight, saliency, most)
    number = int(chosen.sum())
    assert chosen[order[:number]].all()
    counts = range(1, min(most, columns) + 1)
    assert number in counts if counts else number == 0
    if counts:
        assert error(number) == pytest.approx(min(error(count) for count in counts), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_the_break_point_is_brute_forces_of_the_percentiles(out, columns, seed):
    weight = draw(out, columns, seed)

    def error(point):
        large = weight.abs() >= point
        return squared_error(weight, large) + squared_error(weight, ~large)

    ordered = sorted(weight.abs().flatten().tolist())
    candidates = {
        ordered[round(place * (len(ordered) - 1))]
        for place in torch.linspace(0.1, 0.9, 81, dtype=torch.float64).tolist()
    }
    found = break_point(weight)
    assert found == pytest.approx(found)
    assert any(found == pytest.approx(candidate) for candidate in candidates)
    assert error(found) == pytest.approx(min(error(point) for point in candidates), rel=1e-6)


def test_two_clear_groups_are_told_apart():
    weight = torch.where(draw(8, 32) > 0.8, 10.0, 1.0) * draw(8, 32, 1).sign()
    assert 1 < break_point(weight) <= 10
