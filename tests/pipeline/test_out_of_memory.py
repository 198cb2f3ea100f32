import re

import pytest
import torch

from crvq.cli.typed_config import typed_config
from crvq.config.finetune import check_finetune
from crvq.errors import QuantizationError
from crvq.pipeline.out_of_memory import memory_advice

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("stage", "overrides", "advice"),
    [
        ("block", ["calibration.batch_size=4"], "calibration.batch_size=2"),
        ("block", ["calibration.batch_size=1", "calibration.length=64"], "calibration.length=32"),
        ("end_to_end", ["finetune.end_to_end.microbatch=8"], "end_to_end.microbatch=4"),
        ("end_to_end", [], "finetune.end_to_end.gradient_checkpointing=true"),
        (
            "end_to_end",
            ["finetune.end_to_end.gradient_checkpointing=true", "finetune.end_to_end.length=32"],
            "finetune.end_to_end.length=16",
        ),
    ],
)
def test_the_error_names_a_setting_that_needs_less(compose_config, stage, overrides, advice):
    config = compose_config("finetune=block_e2e", *overrides)
    with pytest.raises(QuantizationError, match=advice), memory_advice(config, stage, CUDA):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_other_errors_pass(compose_config):
    with pytest.raises(ValueError, match="other"), memory_advice(compose_config(), "block", CUDA):
        raise ValueError("other")


@pytest.mark.parametrize("size", [5, 6, 9])
def test_what_is_named_is_a_setting_that_is_taken(compose_config, size):
    """Batches are made of whole passes: half of five is refused."""
    asked = ["finetune=block_e2e", "finetune.end_to_end.steps=10"]
    asked.append(f"finetune.end_to_end.batch_size={size}")
    config = compose_config(*asked, f"finetune.end_to_end.microbatch={size}")
    with (
        pytest.raises(QuantizationError) as told,
        memory_advice(config, "end_to_end", CUDA),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    named = re.search(r"microbatch=(\d+)", str(told.value))
    advised = f"finetune.end_to_end.microbatch={named.group(1)}"
    smaller = typed_config(compose_config(*asked, advised))
    check_finetune(smaller.finetune, smaller.calibration)
    assert smaller.finetune.end_to_end.microbatch < size


def test_memory_of_the_processor_counts_too(compose_config):
    with (
        pytest.raises(QuantizationError, match=r"calibration\.length=512$"),
        memory_advice(compose_config(), "block", CPU),
    ):
        torch.empty(2**60)
