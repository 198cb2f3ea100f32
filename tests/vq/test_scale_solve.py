"""Row scales against minima that autograd and brute force find."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq import tiles
from crvq.vq.coordinate_descent import descend_codes
from crvq.vq.scale_solve import best_scales, solve_scales
from tests.vq.coded_examples import naive_row, naive_row_loss, random_linear


def searched_example(**kwargs):
    """Codes that fit the weight, so that decoded rows point its way."""
    linear, codebooks = random_linear(**kwargs)
    descend_codes(linear, codebooks)
    return linear, codebooks


def test_equals_the_minimum_that_lbfgs_finds():
    linear, codebooks = searched_example(out=10, coverage=(4, 2), entries=(4, 4))
    rows = range(10)
    decoded = torch.stack([naive_row(linear.code, codebooks, row) for row in rows])
    decoded = decoded / linear.code.scales.double()[:, None]
    scales = linear.code.scales.double().requires_grad_()
    optimizer = torch.optim.LBFGS([scales], max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        error = linear.weight.double() - scales[:, None] * decoded
        loss = ((error @ linear.hessian.matrix.double()) * error).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # A row that points away keeps its scale instead of turning negative.
    wanted = torch.where(scales > 0, scales, linear.code.scales).detach()
    assert int((scales > 0).sum()) >= 8
    torch.testing.assert_close(
        solve_scales(linear, codebooks).double(), wanted, rtol=1e-4, atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 8),
    groups=st.integers(1, 4),
    d=st.integers(1, 4),
    log_condition=st.integers(0, 7),
    searched=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_row_gets_worse_and_no_neighbour_is_better(
    out, groups, d, log_condition, searched, seed
):
    make = searched_example if searched else random_linear
    linear, codebooks = make(
        out=out, groups=groups, d=d, coverage=(groups,), seed=seed, condition=10.0**log_condition
    )
    before = [naive_row_loss(linear, codebooks, row) for row in range(out)]
    old = linear.code.scales
    linear.code.scales = solve_scales(linear, codebooks)
    kept = linear.code.scales == old
    slack = 1e-5 * linear.energy / out + 1e-9
    after = [naive_row_loss(linear, codebooks, row) for row in range(out)]
    assert all(b <= a * (1 + 1e-5) + slack for a, b in zip(before, after, strict=True))
    best = linear.code.scales
    for factor in (0.9, 1.1):
        linear.code.scales = best * factor
        for row in range(out):
            if not kept[row]:
                assert naive_row_loss(linear, codebooks, row) >= after[row] * (1 - 1e-5) - slack


def test_rows_that_point_away_keep_their_scale():
    linear, codebooks = searched_example()
    codebooks = [-codebook for codebook in codebooks]
    assert torch.equal(solve_scales(linear, codebooks), linear.code.scales)


def test_zero_weights_and_zero_decoded_rows_keep_a_finite_scale():
    linear, codebooks = searched_example()
    linear.weight[0] = 0
    codebooks[0][0] = 0
    linear.code.codes[0][1] = 0
    scales = solve_scales(linear, codebooks)
    assert bool(torch.isfinite(scales).all())
    assert torch.equal(scales[:2], linear.code.scales[:2])


def test_the_linears_own_scales_are_left_alone():
    linear, codebooks = searched_example()
    before = linear.code.scales.clone()
    assert not torch.equal(solve_scales(linear, codebooks), before)
    assert torch.equal(linear.code.scales, before)


def test_tile_size_changes_nothing_but_rounding(monkeypatch):
    linear, codebooks = searched_example(out=13)
    whole = solve_scales(linear, codebooks)
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", 20)
    torch.testing.assert_close(solve_scales(linear, codebooks), whole, rtol=1e-5, atol=1e-6)


def test_a_row_that_nothing_fits_gets_scale_zero_at_the_end_alone():
    linear, codebooks = searched_example(out=4)
    linear.weight[1] = 0
    kept = solve_scales(linear, codebooks)
    assert kept[1] == linear.code.scales[1] > 0
    decoded = linear.decode(codebooks, slice(None))
    decoded_h = decoded @ linear.hessian.matrix
    final = best_scales(linear.weight, decoded, decoded_h, linear.code.scales, may_be_zero=True)
    assert final[1] == 0
    linear.code.scales = final
    assert naive_row_loss(linear, codebooks, 1) == 0
