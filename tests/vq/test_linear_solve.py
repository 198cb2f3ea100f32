"""Conjugate gradient over a codebook against the normal equations, solved in float64."""

import torch

from crvq.vq.hessian import output_loss
from crvq.vq.linear_solve import solve_linear_parts
from tests.methods.linear_examples import second_moment


def problem(entries=4, rows=10, columns=8):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, entries - 1, (rows, columns), generator=draw)  # the last is unused
    weight, book = torch.randn(rows, columns, generator=draw), torch.randn(entries, generator=draw)

    def decode(parts):
        return parts["book"][codes]

    def pullback(gradient):
        total = torch.zeros(entries, dtype=gradient.dtype)
        return {"book": total.index_add_(0, codes.flatten(), gradient.flatten())}

    return weight, second_moment(columns), codes, book, decode, pullback


def test_it_reaches_the_least_squares_optimum_and_leaves_unused_entries_alone():
    weight, h, codes, book, decode, pullback = problem()
    found = solve_linear_parts(weight, h, {"book": book}, decode, pullback, 20)["book"]
    # A row's decoding is S_r book with S_r one-hot, (columns, entries).
    onehot = torch.nn.functional.one_hot(codes, len(book)).double()
    normal = torch.einsum("rce,cd,rdf->ef", onehot, h.double(), onehot)
    target = torch.einsum("rce,cd,rd->e", onehot, h.double(), weight.double())
    exact = torch.linalg.solve(normal[:3, :3], target[:3])
    torch.testing.assert_close(found[:3].double(), exact, rtol=1e-3, atol=1e-3)
    assert found[3] == book[3]


def test_every_step_lowers_the_loss():
    weight, h, _, book, decode, pullback = problem()
    losses = []
    for steps in range(4):
        found = solve_linear_parts(weight, h, {"book": book}, decode, pullback, steps)
        losses.append(output_loss(weight - decode(found), h))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1]
