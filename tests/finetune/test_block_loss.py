import pytest
import torch

from crvq.finetune.block import block_loss


def test_mse_is_the_mean_squared_error_over_the_energy():
    outputs, targets = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    expected = (outputs - targets).square().mean() / 2.5
    torch.testing.assert_close(block_loss("mse", outputs, targets, 2.5), expected)


def test_token_relative_weighs_tokens_alike():
    """Whatever the size of a token, the same relative error counts the same."""
    targets = torch.randn(1, 4, 6)
    errors = 0.1 * torch.randn(1, 4, 6)
    plain = block_loss("token_relative", targets + errors, targets, 1.0)
    sizes = torch.tensor([1.0, 1000.0, 0.01, 7.0])[None, :, None]
    scaled = block_loss("token_relative", (targets + errors) * sizes, targets * sizes, 1.0)
    torch.testing.assert_close(scaled, plain)
    one_by_one = [
        float(e.square().sum() / t.square().sum())
        for e, t in zip(errors[0], targets[0], strict=True)
    ]
    assert float(plain) == pytest.approx(sum(one_by_one) / 4)


@pytest.mark.parametrize("name", ["mse", "token_relative"])
def test_zeros_are_one_and_the_targets_are_nothing(name):
    targets = torch.randn(2, 5, 3)
    energy = float(targets.square().mean())
    assert float(block_loss(name, targets, targets, energy)) == 0
    zeros = torch.zeros_like(targets)
    assert float(block_loss(name, zeros, targets, energy)) == pytest.approx(1)
