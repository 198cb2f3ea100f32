import pytest
import torch

from crvq.config.finetune import BlockConfig, FinetuneConfig
from crvq.finetune.block import BlockBatches, batches_of, finetune_block


@pytest.mark.parametrize(("train", "passes"), [(7, 1), (7, 2), (8, 4), (3, 3)])
def test_every_epoch_sees_each_batch_once_in_an_order_of_its_own(train, passes):
    an_epoch = -(-train // passes)
    orders = []
    for epoch in range(3):
        steps = range(epoch * an_epoch, (epoch + 1) * an_epoch)
        seen = [batch for step in steps for batch in batches_of(step, train, passes, seed=4)]
        assert sorted(seen) == list(range(train))
        orders.append(seen)
    assert train < 7 or orders[0] != orders[1]
    assert batches_of(1, train, passes, 4) == batches_of(1, train, passes, 4)


def batches(block, seed=0, count=6):
    generator = torch.Generator().manual_seed(seed)
    hidden = [torch.randn(2, 5, 6, generator=generator) for _ in range(count)]
    targets = [torch.randn(2, 5, 6, generator=generator) * 0.1 + one for one in hidden]
    return BlockBatches(lambda batch: block(hidden[batch]), targets, count - 2)


def config(**values):
    stage = BlockConfig(**{"learning_rate": 0.02, "epochs": 3, **values})
    return FinetuneConfig(block=stage)


@pytest.mark.parametrize("loss", ["mse", "token_relative"])
def test_a_block_ends_with_what_is_handed_back(toy, loss):
    block, linears = toy()
    task = batches(block)
    tuned = finetune_block(3, block, linears, task, config(loss=loss), 1, seed=1)
    assert tuned.summary.best_loss < tuned.summary.first_loss
    for linear in linears:
        assert torch.equal(linear.slot.read(), tuned.weights[linear.name].dequantize())
    for name, value in tuned.others.items():
        assert torch.equal(block.get_parameter(name), value.float())
    assert {point.block for point in tuned.points} == {3}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [1e-4, 0.02, 0.5, 10.0])
def test_it_never_ends_worse_on_validation(toy, seed, rate):
    block, linears = toy(dtype="int8", seed=seed)
    task = batches(block, seed)
    tuned = finetune_block(0, block, linears, task, config(learning_rate=rate), 1, seed=seed)
    assert tuned.summary.best_loss <= tuned.summary.first_loss
    assert (tuned.summary.best_step == 0) == (not tuned.weights)


def test_a_block_with_nothing_to_train_is_left_alone(toy):
    block, linears = toy(shared=True)
    stage = config().model_copy(update={"train": ("codebooks",)})
    assert finetune_block(0, block, linears, batches(block), stage, 1, 0, {"both"}) is None
