"""Advice on memory, full disks and signals."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from crvq.cli.typed_config import typed_config
from crvq.errors import ConfigError, QuantizationError
from crvq.pipeline.failures import (
    StorageError,
    check_writable,
    memory_advice,
    storage_advice,
)
from crvq.stopping import stopped_by_signals
from crvq.tracking.run_id import run_id

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
OTHER = "that is another run, which starts over"
SAME = "it resumes from the last completed block"
E2E = ["finetune=block_e2e", "calibration.samples=32", "finetune.end_to_end.steps=null"]
CHECKPOINTED = "finetune.end_to_end.gradient_checkpointing=true"


def advice_of(config, stage, device):
    with pytest.raises(QuantizationError) as caught, memory_advice(config, stage, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return str(caught.value)


ADVICE = {
    "smaller batches": ("block", ["calibration.batch_size=4"], "calibration.batch_size=2", SAME),
    "shorter windows": ("block", ["calibration.length=64"], "calibration.length=32", OTHER),
    # With block fine-tuning the batch decides which windows validate.
    "batches that train": (
        "block",
        [
            "finetune=block",
            "calibration.samples=32",
            "calibration.batch_size=2",
            "finetune.block.batch_size=4",
        ],
        "calibration.batch_size=1",
        OTHER,
    ),
    # 512 tokens would be refused: the end-to-end stage asks for windows of 512 then.
    "both lengths": (
        "block",
        [*E2E, "finetune.end_to_end.length=1024"],
        "calibration.length=512 finetune.end_to_end.length=512",
        OTHER,
    ),
    "microbatch": (
        "end_to_end",
        [*E2E, "finetune.end_to_end.batch_size=8", "finetune.end_to_end.microbatch=8"],
        "finetune.end_to_end.microbatch=4",
        SAME,
    ),
    "checkpointing": ("end_to_end", E2E, CHECKPOINTED, SAME),
    "shorter windows end to end": (
        "end_to_end",
        [*E2E, CHECKPOINTED, "finetune.end_to_end.length=32"],
        "finetune.end_to_end.length=16",
        OTHER,
    ),
}


@pytest.mark.parametrize("case", ADVICE)
def test_advice_is_accepted_and_says_whether_it_starts_over(case, compose_config):
    stage, overrides, wanted, ending = ADVICE[case]
    config = typed_config(compose_config(*overrides))
    text = advice_of(config, stage, CPU)
    advised = re.search(r"Run the same command with (.*?):", text).group(1).split()
    assert advised == wanted.split()
    assert ending in text
    smaller = typed_config(compose_config(*overrides, *advised))
    assert (run_id(smaller) == run_id(config)) == (ending == SAME)


@pytest.mark.parametrize("size", [5, 6, 9])
def test_batches_are_made_of_whole_microbatches(compose_config, size):
    asked = [*E2E, "finetune.end_to_end.steps=6", f"finetune.end_to_end.batch_size={size}"]
    asked.append(f"finetune.end_to_end.microbatch={size}")
    config = typed_config(compose_config(*asked))
    named = re.search(r"microbatch=(\d+)", advice_of(config, "end_to_end", CUDA))
    assert size % int(named.group(1)) == 0
    assert int(named.group(1)) < size


def test_another_device_is_named_where_nothing_else_is_left(compose_config):
    config = typed_config(compose_config("calibration.length=2"))
    assert "device=cpu: that is another run" in advice_of(config, "block", CUDA)
    assert "use a machine with more memory" in advice_of(config, "block", CPU)


def test_other_errors_pass(compose_config):
    config = typed_config(compose_config())
    with pytest.raises(ValueError, match="other"), memory_advice(config, "block", CUDA):
        raise ValueError("other")


def test_memory_of_the_processor_counts_too(compose_config):
    config = typed_config(compose_config())
    with (
        pytest.raises(QuantizationError, match=r"calibration\.length=512: that is another"),
        memory_advice(config, "block", CPU),
    ):
        torch.empty(2**60)


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")]
)
def test_a_disk_that_takes_no_more_is_one_line(number, reason, tmp_path):
    one_line = f"{reason}.*the same command again: it resumes"
    with pytest.raises(StorageError, match=one_line) as raised, storage_advice(tmp_path):
        raise OSError(number, os.strerror(number), "block-003.safetensors")
    assert "block-003.safetensors" in str(raised.value)
    with pytest.raises(FileNotFoundError), storage_advice(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b", "results_dir")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file, not a folder"):
        check_writable(tmp_path / "file" / "b", "results_dir")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"results_dir=.* is not writable"):
        check_writable(tmp_path / "a", "results_dir")


STUCK = """
import sys, threading, time
from crvq.stopping import stopped_by_signals
worker = threading.Thread(target=time.sleep, args=(60,))
with stopped_by_signals(lambda: print("closed", flush=True)):
    print("started", flush=True)
    try:
        time.sleep(60)
    finally:
        if sys.argv[1] == "stuck":
            time.sleep(60)
"""


@pytest.mark.parametrize("how", ["stuck", "free"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_time_even_if_it_is_stuck(how, number):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "started\n"
        time.sleep(0.5)  # past the print
        begun = time.monotonic()
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
    assert time.monotonic() - begun < 8
    assert said == ("closed\n" if how == "stuck" else "")
    if how == "stuck":
        assert process.returncode == 128 + number


def test_signals_outside_the_run_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
