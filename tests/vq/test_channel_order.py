"""Channel orders: what each policy promises; and how λ becomes whole groups."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.vq.channel_order import channel_order, critical_groups

POLICIES = ["sorted", "stratified", "critical_first"]


@pytest.mark.parametrize(
    ("features", "ratio", "policy", "groups"),
    [
        (576, 0.02, "floor", 1),
        (576, 0.01, "floor", 0),
        (576, 0.01, "at_least_one", 1),
        (576, 0.01, "nearest", 1),
        (576, 0.005, "nearest", 0),
        (576, 0.005, "ceil", 1),
        (576, 0.0, "at_least_one", 0),
        (576, 0.0, "ceil", 0),
        (4096, 0.02, "floor", 10),
        (4096, 0.02, "ceil", 11),
        (576, 1.0, "floor", 72),
        (9, 1.0, "ceil", 2),
        (4, 1.0, "at_least_one", 1),
    ],
)
def test_critical_groups_of_eight(features, ratio, policy, groups):
    assert critical_groups(features, 8, ratio, policy) == groups


@given(percent=st.integers(0, 100), hundreds=st.integers(1, 40))
def test_a_whole_number_of_channels_is_not_lost_to_float_rounding(percent, hundreds):
    """0.29 * 100 is 28.999999999999996 in floats, and 29 channels all the same."""
    exact = Fraction(percent, 100) * hundreds * 100
    ratio = percent / 100
    for policy in ("floor", "nearest", "ceil"):
        assert critical_groups(hundreds * 100, 1, ratio, policy) == exact


@given(
    features=st.integers(1, 3000),
    d=st.integers(1, 16),
    ratio=st.floats(0, 1),
)
def test_policies_keep_their_order_and_stay_within_the_layer(features, d, ratio):
    floor, nearest, ceil, least = (
        critical_groups(features, d, ratio, policy)
        for policy in ("floor", "nearest", "ceil", "at_least_one")
    )
    assert 0 <= floor <= nearest <= ceil <= -(-features // d)
    assert least == max(floor, 1 if ratio > 0 else 0)
    assert abs(ceil - ratio * features / d) < 1 + 1e-6


@st.composite
def channels(draw):
    d = draw(st.integers(1, 6))
    groups = draw(st.integers(1, 8))
    critical = draw(st.integers(0, groups))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(groups * d, generator=generator)
    energy = torch.rand(groups * d, generator=generator)
    return importance, energy, d, groups, critical


@pytest.mark.parametrize("policy", POLICIES)
@given(example=channels())
def test_every_policy_is_a_permutation_with_the_critical_channels_first(policy, example):
    importance, energy, d, groups, critical = example
    order = channel_order(importance, energy, d, critical, policy)
    assert sorted(order.tolist()) == list(range(groups * d))
    first, rest = importance[order[: critical * d]], importance[order[critical * d :]]
    assert not len(first) or not len(rest) or first.min() >= rest.max()


@given(example=channels())
def test_sorted_descends_by_importance(example):
    importance, energy, d, _, critical = example
    ranked = importance[channel_order(importance, energy, d, critical, "sorted")]
    assert bool((ranked.diff() <= 0).all())


@given(example=channels())
def test_critical_first_keeps_the_others_where_they_lie(example):
    importance, energy, d, _, critical = example
    order = channel_order(importance, energy, d, critical, "critical_first")
    assert bool((order[critical * d :].diff() > 0).all())


@given(example=channels())
def test_stratified_deals_every_group_one_channel_of_each_stratum(example):
    importance, energy, d, groups, critical = example
    order = channel_order(importance, energy, d, critical, "stratified")
    dealt = energy[order[critical * d :]].view(groups - critical, d)
    if groups > critical:
        strata = dealt.flatten().sort(descending=True).values.view(d, groups - critical)
        assert torch.equal(dealt.T.sort(dim=1, descending=True).values, strata)


def test_ties_keep_their_natural_order():
    even = torch.ones(12)
    assert channel_order(even, even, 2, 1, "sorted").tolist() == list(range(12))


def test_none_leaves_channels_and_cannot_have_critical_groups():
    importance = torch.rand(8)
    assert channel_order(importance, importance, 2, 0, "none").tolist() == list(range(8))
    with pytest.raises(ValueError, match="cannot have critical groups"):
        channel_order(importance, importance, 2, 1, "none")
