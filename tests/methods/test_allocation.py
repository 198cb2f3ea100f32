"""The division of bits against every division there is, on small cases."""

import itertools
import random

import pytest

from crvq.methods.allocation import LayerCosts, _all, allocate, total_bits, total_loss

WIDTHS = (6, 8, 10)


def random_case(seed, blocks=2, layers=2):
    draw = random.Random(seed)
    storage = {width: draw.choice([0.0, 3.0]) * 2 ** (width - 6) for width in WIDTHS}
    made = []
    for _ in range(blocks):
        block = []
        for _ in range(layers):
            size, start = draw.choice([20.0, 60.0, 200.0]), draw.uniform(0.1, 2)
            falls = draw.uniform(0.1, 0.6)
            losses = {w: start * draw.uniform(0.9, 1) * 2 ** (-falls * (w - 6)) for w in WIDTHS}
            block.append(LayerCosts(losses, {w: size * w / 8 for w in WIDTHS}))
        made.append(block)
    return made, storage


def every_division(blocks):
    sizes = [len(block) for block in blocks]
    for flat in itertools.product(WIDTHS, repeat=sum(sizes)):
        rest = iter(flat)
        yield [list(itertools.islice(rest, size)) for size in sizes]


@pytest.mark.parametrize("seed", range(12))
def test_a_price_gives_the_cheapest_division_of_all(seed):
    blocks, storage = random_case(seed)
    for price in (1e-5, 1e-3, 1e-2, 0.1):
        found = _all(blocks, storage, price)

        def cost(one, price=price):
            return total_loss(blocks, one) + price * total_bits(blocks, storage, one)

        assert cost(found) == pytest.approx(min(map(cost, every_division(blocks))))


@pytest.mark.parametrize("seed", range(12))
def test_the_budget_is_kept_and_little_is_left_on_the_table(seed):
    blocks, storage = random_case(seed)
    divisions = list(every_division(blocks))
    amounts = sorted({total_bits(blocks, storage, one) for one in divisions})
    for budget in (amounts[0], amounts[len(amounts) // 3], amounts[-1] + 1):
        found = allocate(blocks, storage, budget)
        assert total_bits(blocks, storage, found) <= budget
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
