import pytest
import torch

from crvq.config import CalibrationConfig
from crvq.config.finetune import BlockConfig, EndToEndConfig, FinetuneConfig, check_finetune
from crvq.errors import ConfigError
from crvq.finetune.end_to_end import blockwise_windows, end_to_end_windows


def settings(block=None, end_to_end=None, calibration=None, **values):
    common = {"learning_rate": 0.01, "epochs": 1}
    config = FinetuneConfig(
        block=BlockConfig(**common, **block) if block is not None else None,
        end_to_end=EndToEndConfig(**common, **end_to_end) if end_to_end is not None else None,
        **values,
    )
    return config, CalibrationConfig(**{"samples": 8, "length": 16, **(calibration or {})})


def windows(count, length=16):
    return torch.arange(count * length).view(count, length)


def test_without_a_block_stage_the_walk_sees_the_calibration_windows():
    config, calibration = settings(end_to_end={}, samples=20)
    drawn = windows(config.windows(calibration))
    assert len(drawn) == 20
    assert torch.equal(blockwise_windows(drawn, config, calibration), drawn[:8])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("part", [None, 10])
def test_what_validates_end_to_end_has_trained_no_block(batch_size, part):
    config, calibration = settings(
        block={"samples": part, "batch_size": batch_size},
        end_to_end={"length": 4},
        samples=20,
        calibration={"batch_size": batch_size},
    )
    drawn = windows(20)
    split = config.block_split(calibration)
    assert split.train % batch_size == 0
    walked = blockwise_windows(drawn, config, calibration)
    train, held = end_to_end_windows(drawn, config, calibration)
    assert train.shape[1] == held.shape[1] == 4
    assert not set(walked[: split.train].flatten().tolist()) & set(held.flatten().tolist())
    assert set(walked[split.train :].flatten().tolist()) <= set(held.flatten().tolist())
    assert len(walked) > split.train
    assert sorted(torch.cat([train, held]).flatten().tolist()) == drawn.flatten().tolist()
    assert (len(train), len(held)) == config.end_to_end_split(calibration)


def test_no_fewer_windows_than_calibration_has():
    config, calibration = settings(block={"samples": 2}, samples=4)
    assert config.windows(calibration) == 8
    assert sum(config.block_split(calibration)) == 8


REFUSED = {
    "batch above the windows": (
        {"block": {"batch_size": 9}},
        [r"block\.batch_size=9", "7 windows train", r"batch_size=7 or less"],
    ),
    "batch that is no whole number of passes": (
        {"block": {"batch_size": 3}, "calibration": {"batch_size": 2}},
        [r"block\.batch_size=3", r"set finetune\.block\.batch_size=4"],
    ),
    "passes above the windows": (
        {"block": {"batch_size": 8}, "calibration": {"batch_size": 8}},
        ["none is left to train on", r"calibration\.batch_size=1"],
    ),
    "more windows than are drawn": (
        {"block": {"samples": 9}},
        [r"block\.samples=9", "only 8 windows", r"finetune\.samples=9"],
    ),
    "a single window": (
        {"block": {}, "calibration": {"samples": 1}},
        ["none is left to train on"],
    ),
    "a single window end to end": (
        {"end_to_end": {}, "calibration": {"samples": 1}},
        ["end_to_end", "none is left to train on"],
    ),
    "longer windows than there are": (
        {"end_to_end": {"length": 17}},
        [r"end_to_end\.length=17", "16", r"calibration\.length=17"],
    ),
    "more steps than data": (
        {"end_to_end": {"steps": 30, "length": 8}},
        [r"end_to_end\.steps=30", "14 windows", "14 steps", r"epochs=3"],
    ),
    "batch end to end": (
        {"end_to_end": {"batch_size": 8}},
        [r"end_to_end\.batch_size=8", r"batch_size=7 or less"],
    ),
    "microbatches that do not fit": (
        {"end_to_end": {"batch_size": 5, "microbatch": 2}},
        [r"batch_size=5", "microbatches of 2", r"batch_size=6"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_with_a_way_out(name):
    given, parts = REFUSED[name]
    config, calibration = settings(**given)
    with pytest.raises(ConfigError) as caught:
        check_finetune(config, calibration)
    for part in parts:
        caught.match(part)


def test_what_the_refusal_proposes_is_accepted():
    given = {"steps": 30, "length": 8}
    config, calibration = settings(end_to_end=given)
    with pytest.raises(ConfigError):
        check_finetune(config, calibration)
    more = EndToEndConfig(learning_rate=0.01, **{**given, "epochs": 3})
    check_finetune(config.model_copy(update={"end_to_end": more}), calibration)
    assert config.model_copy(update={"end_to_end": more}).end_to_end_steps(calibration) == 30
