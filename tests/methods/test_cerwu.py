"""The coder against the ideal code length, and rate-distortion choices against brute force."""

import itertools
from math import log

import pytest
import torch

from crvq.methods.scalar_params import CerwuParams
from crvq.vq.hessian import Hessian
from crvq.vq.rate_rounding import round_at_rate
from crvq.weights import FormatError
from crvq.weights.entropy import order0_bits
from crvq.weights.entropy_coder import decode, encode, stored_frequencies
from tests.methods.linear_examples import random_linear, second_moment
from tests.methods.method_checks import check_result, planned_bits, quantize


def skewed(count, symbols=7):
    weights = torch.tensor([0.5**one for one in range(symbols)])
    draw = torch.Generator().manual_seed(count)
    return torch.multinomial(weights, count, replacement=True, generator=draw)


@pytest.mark.parametrize("count", [1, 100, 20_011])
def test_what_is_coded_is_decoded(count):
    symbols = skewed(count)
    frequencies = stored_frequencies(torch.bincount(symbols, minlength=7))
    assert torch.equal(decode(*encode(symbols, frequencies), frequencies, count), symbols)


def test_the_stream_comes_within_half_a_percent_of_the_ideal_length():
    symbols = skewed(60_000)
    counts = torch.bincount(symbols, minlength=7)
    words, states = encode(symbols, stored_frequencies(counts))
    assert 16 * (len(words) + states.numel()) == pytest.approx(order0_bits(counts), rel=5e-3)


def test_one_symbol_alone_takes_no_words():
    symbols = torch.full((1000,), 3)
    frequencies = stored_frequencies(torch.bincount(symbols, minlength=7))
    words, states = encode(symbols, frequencies)
    assert len(words) == 0
    assert torch.equal(decode(words, states, frequencies, 1000), symbols)


@pytest.mark.parametrize("damage", ["a word", "length", "frequencies"])
def test_a_damaged_stream_is_refused(damage):
    symbols = skewed(3000)
    frequencies = stored_frequencies(torch.bincount(symbols, minlength=7))
    words, states = encode(symbols, frequencies)
    if damage == "a word":
        words[5] ^= 1
    elif damage == "length":
        words = words[:-3]
    else:
        frequencies[0] += 1
    with pytest.raises(FormatError, match=r"words|frequencies"):
        decode(words, states, frequencies, 3000)


def objective(row, h, codes, step, counts, price):
    """``e H eᵀ + λ Σ -log2 p`` as it is written."""
    error = row.double() - (codes.double() - len(counts) // 2) * step
    rates = -((counts + 0.5) / (counts + 0.5).sum()).log2().double()
    return (error @ h.double() * error).sum(-1) + price * rates[codes].sum(-1)


def test_codes_come_near_the_best_of_all():
    draw = torch.Generator().manual_seed(1)
    weight, h = torch.randn(8, 5, generator=draw), second_moment(5) / 10
    counts, price = torch.tensor([1, 6, 20, 6, 1]), 0.3
    steps = torch.full((8,), 0.6)
    found = round_at_rate(weight, Hessian(h, 0.0), steps, counts, price)
    every = torch.tensor(list(itertools.product(range(5), repeat=5)))
    near = ((weight / 0.6).round() + 2).clamp(0, 4).long()
    own = best = rounded = 0.0
    for row in range(8):
        own += float(objective(weight[row], h, found[row], 0.6, counts, price))
        rounded += float(objective(weight[row], h, near[row], 0.6, counts, price))
        best += float(objective(weight[row], h, every, 0.6, counts, price).min())
    assert best * (1 - 1e-6) <= own < best + 0.35 * (rounded - best)


def test_with_a_diagonal_h_each_code_is_the_best_for_its_weight():
    draw = torch.Generator().manual_seed(2)
    weight, diag = torch.randn(6, 9, generator=draw), torch.logspace(-1, 1, 9)
    counts, price, values = torch.tensor([1, 6, 20, 6, 1]), 0.2, (torch.arange(5) - 2) * 0.6
    found = round_at_rate(weight, Hessian(diag.diag(), 0.0), torch.full((6,), 0.6), counts, price)
    rates = -((counts + 0.5) / (counts + 0.5).sum()).log()
    costs = (weight[..., None] - values).square() * diag[:, None] + price * rates / log(2)
    assert torch.equal(found, costs.argmin(-1))


@pytest.mark.parametrize("rate", [2.5, 4.0])
def test_what_is_reported_is_what_is_stored_within_the_rate(rate):
    linear = random_linear(40, 64)
    result = quantize("cerwu", linear, rate=rate, passes=5)
    check_result(result)
    size = linear.weight.numel()
    assert result.weight.bits().total <= planned_bits("cerwu", linear, rate=rate).total
    assert planned_bits("cerwu", linear, rate=rate).total <= rate * size
    assert result.relative_loss < 0.5


def test_an_even_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="levels=16: must be odd"):
        CerwuParams(levels=16)
