import pytest
import torch

from crvq.errors import QuantizationError
from crvq.pipeline.out_of_memory import memory_advice


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
    with pytest.raises(QuantizationError, match=advice), memory_advice(config, stage):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_other_errors_pass(compose_config):
    with pytest.raises(ValueError, match="other"), memory_advice(compose_config(), "block"):
        raise ValueError("other")
