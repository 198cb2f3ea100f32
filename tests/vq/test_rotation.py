"""Rotations against their dense matrices, in float64."""

import pytest
import torch
from scipy.fft import dct
from scipy.linalg import hadamard

from crvq.vq.rotation import draw_rotation


def draw(in_features, block=None, keep=0.0, seed=0):
    importance = torch.rand(in_features, generator=torch.Generator().manual_seed(seed))
    rotation = draw_rotation(importance, block, keep, torch.Generator().manual_seed(seed))
    return importance, rotation


def dense(rotation, in_features):
    return rotation.forward(torch.eye(in_features, dtype=torch.float64))


@pytest.mark.parametrize("in_features", [1, 2, 6, 9, 36, 128, 192])
@pytest.mark.parametrize("block", [None, 2])
def test_it_is_orthogonal_and_its_inverse_undoes_it(in_features, block):
    _, rotation = draw(in_features, block, keep=0.1)
    matrix = dense(rotation, in_features)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(in_features, dtype=torch.float64))
    values = torch.randn(5, in_features, dtype=torch.float64)
    torch.testing.assert_close(rotation.inverse(rotation.forward(values)), values)


def test_a_block_is_the_kronecker_product_of_hadamard_and_cosine_matrices():
    _, rotation = draw(48)
    sixteen = torch.tensor(hadamard(16) / 4.0, dtype=torch.float64)
    three = torch.tensor(dct(torch.eye(3).double().numpy(), norm="ortho", axis=1)).double()
    expected = rotation.signs.double()[:, None] * torch.kron(sixteen, three)
    torch.testing.assert_close(dense(rotation, 48), expected)
    _, large = draw(256)
    whole = torch.tensor(hadamard(256) / 16.0, dtype=torch.float64)
    torch.testing.assert_close(dense(large, 256), large.signs.double()[:, None] * whole)


def test_the_most_important_in_features_stay_and_the_rest_is_whole_blocks():
    importance, rotation = draw(70, block=16, keep=0.05)
    kept = sorted(set(range(70)) - set(rotation.rotated.tolist()))
    assert len(kept) == 6  # 4 are asked for; 66 are 4 blocks of 16 and 2 more
    assert kept == sorted(importance.argsort(descending=True)[:6].tolist())
    matrix = dense(rotation, 70)
    assert torch.equal(matrix[kept][:, kept], torch.eye(6, dtype=torch.float64))


def test_hessian_and_loss_are_those_of_the_dense_matrix():
    _, rotation = draw(24, block=8, keep=0.2)
    matrix, half = dense(rotation, 24), torch.randn(24, 24, dtype=torch.float64)
    h, error = half @ half.T, torch.randn(3, 24, dtype=torch.float64)
    turned = rotation.hessian(h)
    torch.testing.assert_close(turned, matrix.T @ h @ matrix)
    moved = rotation.forward(error)
    torch.testing.assert_close((moved @ turned @ moved.T).trace(), (error @ h @ error.T).trace())
    diagonal = torch.rand(24, dtype=torch.float64)
    expected = (matrix.T @ diagonal.diag() @ matrix).diagonal()
    torch.testing.assert_close(rotation.spread(diagonal), expected)
