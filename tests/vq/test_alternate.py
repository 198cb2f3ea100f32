"""The whole alternation: its losses, what it stores, and what changes its result."""

from itertools import pairwise

import pytest
import torch

from crvq.vq import alternate as module
from crvq.vq import tiles
from crvq.vq.additive_code import coded_linear
from crvq.vq.alternate import AlternationSettings, alternate
from crvq.vq.hessian import Hessian
from crvq.vq.importance import row_scales
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.vq.scale_solve import storable_scales
from crvq.vq.storage import load_codebook, round_codebook, store_codebook
from tests.vq.coded_examples import naive_loss, second_moment

SEARCHES = ["descent", "feedback_start", "feedback"]


def start(out=48, groups=6, d=4, critical=1, bits=4, m=3, seed=0, rows_of_zero=0):
    """A linear with heavy-tailed activations, and codebooks to start from."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, groups * d, generator=generator) * 0.02
    weight[:rows_of_zero] = 0
    hessian = Hessian(second_moment(groups * d, seed, 1e4))
    order = torch.randperm(groups * d, generator=generator)
    coverage = [groups] + [critical] * (m - 1)
    linear = coded_linear(weight, hessian, order, coverage, row_scales(weight))
    codebooks = initial_codebooks([linear], [1 << bits] * m, 5, 1 << 12, generator)
    return linear, codebooks


def stored_loss(linear, codebooks, dtype):
    """Relative loss of what storage gives back, in float64."""
    linear.code.scales = linear.code.scales.half().float()
    back = [load_codebook(store_codebook(codebook, dtype)) for codebook in codebooks]
    w, h = linear.weight.double(), linear.hessian.matrix.double()
    return naive_loss(linear, back) / float(torch.trace(w @ h @ w.T))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("search", SEARCHES)
def test_losses_fall_and_the_last_is_that_of_the_stored_parts(search, dtype):
    linear, codebooks = start()
    settings = AlternationSettings(search=search, beam=2, codebook_dtype=dtype)
    done = alternate([linear], codebooks, settings)
    course = done.losses
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(course[:-1]))
    assert course[-1] <= course[-2] * (1.001 if dtype == "float16" else 1.05)
    assert done.rounds == len(course) - 2
    assert course[-1] == pytest.approx(stored_loss(linear, done.codebooks, dtype), rel=1e-4)
    assert course[-1] < 0.8 * course[0]


def test_same_start_same_codes():
    results = []
    for _ in range(2):
        linear, codebooks = start(seed=3)
        done = alternate([linear], codebooks, AlternationSettings())
        results.append((linear.code.codes, done.codebooks, [linear.code.scales]))
    for first, second in zip(*results, strict=True):
        assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("search", SEARCHES)
def test_tile_size_does_not_change_the_result_beyond_rounding(monkeypatch, search):
    settings = AlternationSettings(search=search, max_rounds=3, beam=2)
    losses = []
    for elements in (1 << 22, 500):
        monkeypatch.setattr(tiles, "_CPU_ELEMENTS", elements)
        linear, codebooks = start(seed=4)
        losses.append(alternate([linear], codebooks, settings).losses)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_codebooks_that_are_not_trained_stay(dtype):
    linear, codebooks = start()
    codebooks = [round_codebook(codebook, dtype) for codebook in codebooks]
    settings = AlternationSettings(train_codebooks=False, codebook_dtype=dtype)
    done = alternate([linear], codebooks, settings)
    assert all(map(torch.equal, done.codebooks, codebooks))
    trained = alternate([start()[0]], codebooks, AlternationSettings(codebook_dtype=dtype))
    assert not torch.equal(trained.codebooks[0], codebooks[0])
    assert trained.losses[-1] < done.losses[-1]


def test_linears_sharing_codebooks_get_a_joint_loss_that_falls():
    first, codebooks = start(seed=1)
    second, _ = start(out=20, seed=2)
    second.importance = 3.0
    done = alternate([first, second], codebooks, AlternationSettings())
    total = naive_loss(first, done.codebooks) + 3 * naive_loss(second, done.codebooks)
    energy = first.energy + 3 * second.energy
    assert done.losses[-1] == pytest.approx(total / energy, rel=1e-4)
    assert done.losses[-1] < 0.8 * done.losses[0]


def test_stops_when_a_round_gains_too_little_or_rounds_run_out():
    rounds = {}
    for gain in (0.9, 0.01, 0.0):
        linear, codebooks = start()
        done = alternate([linear], codebooks, AlternationSettings(max_rounds=6, relative_gain=gain))
        rounds[gain] = done.rounds
        gained = [1 - b / a for a, b in pairwise(done.losses[:-1])]
        assert all(part >= gain for part in gained[:-1])
        assert gained[-1] < gain or done.rounds == 6
    assert rounds[0.9] == 1 < rounds[0.01]
    linear, codebooks = start()
    assert alternate([linear], codebooks, AlternationSettings(max_rounds=0)).rounds == 0


def test_a_later_codebook_search_keeps_only_better_rows():
    linear, codebooks = start(bits=2)
    alternate([linear], codebooks, AlternationSettings())
    before = linear.row_loss(codebooks)
    worse = linear.code.codes[0].clone()
    found = module.search_codes(linear, codebooks, 1)
    mixed = linear.row_loss(codebooks, found)
    assert bool((mixed > before).any())
    module._keep_better_rows(linear, codebooks, found)
    torch.testing.assert_close(linear.row_loss(codebooks), torch.minimum(before, mixed))
    assert not torch.equal(worse, linear.code.codes[0]) or not bool((mixed < before).any())


def test_rows_of_zeros_decode_to_almost_nothing_whatever_the_codebooks():
    linear, _ = start(rows_of_zero=3)
    _, codebooks = start()
    done = alternate([linear], codebooks, AlternationSettings(train_codebooks=False))
    decoded = linear.code.dequantize(done.codebooks)
    assert float(decoded[:3].abs().max()) < 0.02 * float(linear.weight.abs().max())


def test_rows_of_zeros_take_nothing_from_the_others():
    with_zeros, codebooks = start(rows_of_zero=12)
    done = alternate([with_zeros], codebooks, AlternationSettings())
    alone, _ = start()
    alone.weight = with_zeros.weight[12:]
    alone.code.scales = row_scales(alone.weight)
    alone.code.codes = [codes[12:] for codes in alone.code.codes]
    sizes = [len(codebook) for codebook in codebooks]
    first = initial_codebooks([alone], sizes, 5, 1 << 12, torch.Generator().manual_seed(0))
    without = alternate([alone], first, AlternationSettings())
    assert done.losses[-1] < 1.05 * without.losses[-1]


def test_a_weight_of_zeros_comes_back_as_zeros():
    linear, codebooks = start(rows_of_zero=48)
    done = alternate([linear], codebooks, AlternationSettings())
    assert done.losses[-1] == 0
    assert not bool(linear.code.dequantize(done.codebooks).any())


def test_a_layer_smaller_than_its_codebook_is_exact_to_storage():
    linear, codebooks = start(out=3, groups=2, bits=8)
    done = alternate([linear], codebooks, AlternationSettings())
    assert done.losses[-1] < 1e-6


def test_storable_scales_are_what_half_precision_holds():
    scales = torch.tensor([1.0, -0.3, 0.0, 1e-30, 1e-7, -4e-8, 2e-8, 1e9])
    stored = storable_scales(scales)
    assert torch.equal(stored, stored.half().float())
    assert bool(torch.isfinite(stored).all())
    torch.testing.assert_close(stored[:2], scales[:2], rtol=2.0**-11, atol=0)
    # The nearest of the subnormals, which lie 2^-24 apart, and of zero.
    unit = 2.0**-24
    assert stored.tolist()[2:] == [0.0, 0.0, 2 * unit, -unit, 0.0, 65504.0]


def test_the_feedback_factor_is_kept_only_where_every_round_needs_it():
    for search, kept in (("descent", False), ("feedback_start", False), ("feedback", True)):
        linear, codebooks = start()
        alternate([linear], codebooks, AlternationSettings(search=search, max_rounds=1))
        assert ("feedback_factor" in linear.__dict__) == kept


def test_a_row_of_zeros_stays_zero_though_no_entry_is():
    linear, codebooks = start()
    linear.weight[0] = 0
    codebooks = [codebook.abs() + 1 for codebook in codebooks]
    done = alternate([linear], codebooks, AlternationSettings(train_codebooks=False, max_rounds=1))
    assert not bool(linear.code.dequantize(done.codebooks)[0].any())
    assert bool(linear.code.dequantize(done.codebooks)[1:].any())
