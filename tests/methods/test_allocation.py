"""The division of bits against every division there is, on small cases."""

import itertools
import random

import pytest

from crvq.methods.allocation import (
    LayerCosts,
    Layout,
    _Table,
    allocate,
    total_bits,
    total_loss,
)

WIDTHS = tuple(Layout(8, width) for width in (6, 8, 10))
TWO_LENGTHS = (Layout(4, 4), Layout(4, 5), Layout(8, 8), Layout(8, 10))


def random_case(seed, blocks=2, layers=2, layouts=WIDTHS):
    draw = random.Random(seed)
    dear = draw.choice([0.0, 3.0])
    storage = {x: dear * x.group_size * 2.0 ** (x.codebook_bits - 9) for x in layouts}
    made = []
    for _ in range(blocks):
        block = []
        for _ in range(layers):
            size, start = draw.choice([20.0, 60.0, 200.0]), draw.uniform(0.1, 2)
            falls = draw.uniform(0.8, 4.8)
            rates = {x: x.codebook_bits / x.group_size for x in layouts}
            losses = {x: start * draw.uniform(0.9, 1) * 2 ** (-falls * rates[x]) for x in layouts}
            block.append(LayerCosts(losses, {x: size * rates[x] for x in layouts}))
        made.append(block)
    return made, storage


def every_division(blocks, layouts=WIDTHS):
    """All divisions in which a block's layers have one vector length."""
    lengths = {x.group_size for x in layouts}
    of_block = [
        list(choice)
        for length in lengths
        for choice in itertools.product(
            [x for x in layouts if x.group_size == length], repeat=len(blocks[0])
        )
    ]
    yield from map(list, itertools.product(of_block, repeat=len(blocks)))


@pytest.mark.parametrize("layouts", [WIDTHS, TWO_LENGTHS])
@pytest.mark.parametrize("seed", range(12))
def test_a_price_gives_the_cheapest_division_of_all(seed, layouts):
    blocks, storage = random_case(seed, layouts=layouts)
    for price in (1e-5, 1e-3, 1e-2, 0.1):
        found = [_Table(block, storage).best(price) for block in blocks]

        def cost(one, price=price):
            return total_loss(blocks, one) + price * total_bits(blocks, storage, one)

        assert cost(found) == pytest.approx(min(map(cost, every_division(blocks, layouts))))


@pytest.mark.parametrize("layouts", [WIDTHS, TWO_LENGTHS])
@pytest.mark.parametrize("seed", range(12))
def test_the_budget_is_kept_and_little_is_left_on_the_table(seed, layouts):
    blocks, storage = random_case(seed, layouts=layouts)
    divisions = list(every_division(blocks, layouts))
    amounts = sorted({total_bits(blocks, storage, one) for one in divisions})
    for budget in (amounts[0], amounts[len(amounts) // 3], amounts[-1] + 1):
        found = allocate(blocks, storage, budget)
        assert total_bits(blocks, storage, found) <= budget
        assert all(len({x.group_size for x in own}) == 1 for own in found)
        fitting = [one for one in divisions if total_bits(blocks, storage, one) <= budget]
        best = min(total_loss(blocks, one) for one in fitting)
        uniform = min(
            total_loss(blocks, one) for one in fitting if len({*itertools.chain(*one)}) == 1
        )
        assert total_loss(blocks, found) <= uniform + 1e-12
        # Integer widths on two blocks: the exact optimum may beat the hull and its greedy rest.
        assert total_loss(blocks, found) <= 1.35 * best


def test_too_few_bits_are_refused():
    blocks, storage = random_case(0)
    with pytest.raises(ValueError, match="at least"):
        allocate(blocks, storage, 1.0)
