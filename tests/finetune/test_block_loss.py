import pytest
import torch

from crvq.config.finetune import BlockConfig
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


def test_channel_moments_are_distances_of_means_and_variances():
    outputs, targets = 3 * torch.randn(2, 5, 3) + 1, torch.randn(2, 5, 3)

    def moments(values):
        channels = [[float(one) for one in values[..., c].flatten()] for c in range(3)]
        means = [sum(channel) / 10 for channel in channels]
        variances = [
            sum((one - mean) ** 2 for one in channel) / 10
            for channel, mean in zip(channels, means, strict=True)
        ]
        return means + variances

    found, wanted = moments(outputs), moments(targets)
    distance = sum(abs(one - other) for one, other in zip(found, wanted, strict=True))
    loss = float(block_loss("channel_moments", outputs, targets, 1.0))
    assert loss == pytest.approx(distance / sum(abs(one) for one in wanted), rel=1e-5)
    shuffled = targets.flatten(0, 1)[torch.randperm(10)].view_as(targets)
    assert float(block_loss("channel_moments", shuffled, targets, 1.0)) < 1e-6


def test_newton_steps_have_no_hessian_of_moments():
    with pytest.raises(ValueError, match=r"channel_moments with codes\.rule=newton"):
        BlockConfig(learning_rate=1, epochs=1, loss="channel_moments", codes={})


@pytest.mark.parametrize("name", ["mse", "token_relative", "channel_moments"])
def test_zeros_are_one_and_the_targets_are_nothing(name):
    targets = torch.randn(2, 5, 3)
    energy = float(targets.square().mean())
    assert float(block_loss(name, targets, targets, energy)) == 0
    zeros = torch.zeros_like(targets)
    assert float(block_loss(name, zeros, targets, energy)) == pytest.approx(1)
