import pytest
import torch

from crvq.vq.grouped_codebooks import (
    PatchLayout,
    decode_patches,
    load_patches,
    solve_patches,
    store_patches,
)
from tests.vq.coded_examples import second_moment

LAYOUT = PatchLayout(out_features=5, in_features=12, width=2, columns=8, rows=2)


def example(seed=0):
    draw = torch.Generator().manual_seed(seed)
    number = LAYOUT.strips * LAYOUT.bands
    codebooks = torch.randn(number, 3, 2, generator=draw)
    codes = torch.randint(3, (5, 6), generator=draw)
    weight = torch.randn(5, 12, generator=draw)
    return weight, codebooks, codes, LAYOUT.codebook_index(codes.device)


def test_every_vector_decodes_with_its_patchs_codebook():
    _, codebooks, codes, index = example()
    assert (LAYOUT.strips, LAYOUT.bands) == (2, 3)
    values = decode_patches(codebooks, codes, index)
    for row in range(5):
        for group in range(6):
            patch = (2 * group // 8) * 3 + row // 2
            expected = codebooks[patch, codes[row, group]]
            assert torch.equal(values[row, 2 * group : 2 * group + 2], expected)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_solve_reaches_the_least_squares_optimum(scaled):
    """Against a dense least-squares solution over all entries, float64."""
    weight, codebooks, codes, index = example()
    h = second_moment(12, 4)
    draw = torch.Generator().manual_seed(9)
    scales = 0.5 + torch.rand(5, 12, generator=draw) if scaled else None

    def decode(books):
        values = decode_patches(books, codes, index)
        return values if scales is None else values * scales

    solved = solve_patches(weight, h, codebooks, codes, index, scales, steps=200)
    basis = torch.eye(codebooks.numel()).view(-1, *codebooks.shape)
    root = torch.linalg.cholesky(h.double())
    design = torch.stack([(decode(b).double() @ root).flatten() for b in basis], 1)
    best = torch.linalg.lstsq(design, (weight.double() @ root).flatten(), driver="gelsd").solution
    optimum = float(((weight.double() @ root).flatten() - design @ best).square().sum())

    def loss(books):
        return float(((weight - decode(books)).double() @ root).square().sum())

    assert loss(solved) == pytest.approx(optimum, rel=1e-4)
    assert loss(codebooks) > 1.2 * optimum


def test_unused_entries_stay_and_no_steps_change_nothing():
    weight, codebooks, codes, index = example()
    codes = codes.clamp_max(1)
    solved = solve_patches(weight, second_moment(12, 4), codebooks, codes, index, None, 5)
    assert torch.equal(solved[:, 2], codebooks[:, 2])
    none = solve_patches(weight, second_moment(12, 4), codebooks, codes, index, None, 0)
    assert torch.equal(none, codebooks)


def test_stored_codebooks_are_off_by_half_a_step_at_most():
    _, codebooks, _, _ = example()
    codebooks[0] = 0
    codebooks[1] *= 1e4
    entries, steps = store_patches(codebooks)
    assert entries.dtype == torch.int8
    assert torch.equal(steps.half().float(), steps)
    error = (load_patches(entries, steps) - codebooks).abs().amax((1, 2))
    # float16 may round the step down: up to 127 parts in 2048 of a step more, at the ends.
    assert bool((error <= 0.57 * steps).all())
