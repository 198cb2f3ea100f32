import pytest

from crvq.tracking.events import summarize_block


def test_losses_are_plain_means_and_bits_are_weighed(make_row):
    small = make_row(out_features=2, in_features=5, bits=4.0, relative_loss=0.1)
    large = make_row(kind="mlp", out_features=9, in_features=10, bits=1.0, relative_loss=0.3)
    summary = summarize_block(4, [small, large], 1.5)
    assert summary.bits == pytest.approx((10 * 4 + 90 * 1) / 100)
    assert summary.relative_loss_mean == pytest.approx(0.2)
    assert summary.relative_loss_max == 0.3
    assert "block 4" in str(summary)


def test_a_block_without_linears():
    assert summarize_block(0, [], 1.0).bits == 0.0
