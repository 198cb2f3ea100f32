"""Two processes on one run, started by torchrun, against one process."""

import os
import signal
import subprocess
import sys
import time
from statistics import fmean

import pandas as pd
import psutil
import pytest
import torch

from crvq.errors import ConfigError
from crvq.methods import create_method
from crvq.methods.baseline_params import GptqParams
from crvq.pipeline.blockwise import _row
from crvq.pipeline.division import _packed, _unpacked, owners_of
from crvq.pipeline.run import run
from crvq.team import Team, check_share, own_device
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record_schema import read_record
from tests.conftest import ROOT
from tests.methods.linear_examples import crvq, random_linear


def torchrun(overrides, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, "--standalone", str(ROOT / "run.py"), *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def approx_bits(record):
    return pytest.approx(record["bits"]["average_quantized_weights"], rel=1e-12)


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_resume_after_a_death(
    tiny_overrides, compose_run, tmp_path
):
    more = [
        "calibration.batch_size=1",
        "compare_with={critical_ratio: 0.0}",
        "finetune=block",
        "finetune.samples=8",
        "finetune.block.epochs=30",
        "finetune.block.batch_size=4",
    ]
    alone = run(compose_run(*more, f"results_dir={tmp_path / 'alone'}"))
    started = torchrun([*tiny_overrides, *more])
    _kill_one_after(started, tmp_path / "results", "default/*/checkpoint/block-*")
    output, _ = started.communicate(timeout=120)
    assert started.returncode != 0
    assert "the same command resumes" in output
    (folder,) = (tmp_path / "results" / "default").glob("local-*")
    assert read_record(folder)["status"] in ("failed", "stopped")
    again = torchrun([*tiny_overrides, *more])
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert output.count("loading local") == output.count("records:") + output.count("record:") == 1
    record, expected = read_record(folder), read_record(alone)
    assert record["status"] == "complete"
    assert record["resumes"] == 1
    assert record["bits"]["average_quantized_weights"] == approx_bits(expected)
    # Each window is one process's: what does not depend on sums is the same to the last digit.
    both = record["perplexity"]["file"], expected["perplexity"]["file"]
    assert both[0]["full_precision"] == both[1]["full_precision"]
    # H is summed in another order, so that codes may differ where two are as good.
    assert both[0]["quantized"] == pytest.approx(both[1]["quantized"], rel=0.05)
    rows = [read_layers(one / "layers.csv") for one in (folder, alone)]
    losses = [fmean(row.relative_loss for row in each) for each in rows]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_end_to_end_as_one_does(tiny_overrides, tmp_path, sharding):
    more = [
        f"finetune.end_to_end.sharding={sharding}",
        *(one for one in tiny_overrides if not one.startswith("crvq.")),
        "method=rtn",  # needs no H, whose sum would differ: what follows is the training's alone
        "rtn.bits=2",
        "finetune.train=[scales,norms]",
        "calibration.batch_size=1",
        "finetune=block_e2e",
        "finetune.block=null",
        "finetune.samples=15",
        "finetune.end_to_end.length=64",
        "finetune.end_to_end.batch_size=3",  # not a multiple of two processes
        "finetune.end_to_end.microbatch=1",
        "finetune.end_to_end.epochs=16",
        "finetune.end_to_end.steps=64",
        "finetune.end_to_end.save_every=10",
    ]
    once = torchrun([*more, f"results_dir={tmp_path / 'alone'}"], processes=1)
    assert once.wait(timeout=120) == 0
    started = torchrun(more)
    _kill_one_after(started, tmp_path / "results", "default/*/finetune_state.safetensors")
    output, _ = started.communicate(timeout=120)
    assert started.returncode != 0
    again = torchrun(more)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    (folder,), (alone,) = ((tmp_path / one / "default").glob("l*") for one in ("results", "alone"))
    assert "resuming end-to-end fine-tuning after" in (folder / "run.log").read_text()
    losses, expected = (
        pd.read_csv(one / "finetune.csv")["validation_loss"].tolist() for one in (folder, alone)
    )
    assert losses == pytest.approx(expected, rel=1e-3)
    assert losses[-1] < 0.9 * losses[0]
    both = [read_record(one)["perplexity"]["file"]["quantized"] for one in (folder, alone)]
    assert both[0] == pytest.approx(both[1], rel=1e-3)


def _kill_one_after(started, results, pattern):
    for _ in range(2400):
        if started.poll() is not None:
            raise AssertionError(started.communicate()[0])
        workers = psutil.Process(started.pid).children()
        if len(workers) >= 2 and list(results.glob(pattern)):
            os.kill(workers[1].pid, signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError(f"there never was {pattern}")


def test_layers_are_divided_by_cost():
    shapes = [(8, 16), (64, 32), (32, 32), (32, 32)]
    inputs = [random_linear(o, i, seed=s) for s, (o, i) in enumerate(shapes)]
    assert owners_of(inputs, 2) == [0, 0, 1, 1]
    assert owners_of(inputs, 1) == [0, 0, 0, 0]


@pytest.mark.parametrize("method", [crvq(), create_method("gptq", GptqParams(bits=3), 0)])
def test_a_layer_reaches_other_processes_as_it_is(method):
    (result,) = method.quantize_block(0, [random_linear()])
    row, weight = _unpacked(_packed(_row(3, result), result.weight))
    assert row == _row(3, result)
    assert torch.equal(weight.dequantize(), result.weight.dequantize())
    assert weight.bits() == result.weight.bits()


def test_codebooks_of_the_model_go_along():
    method = crvq(codebook_scope="model")
    linear = random_linear()
    method.prepare([[linear]], {linear.kind: linear.weight.numel() * 2})
    (result,) = method.quantize_block(0, [linear])
    _, weight = _unpacked(_packed(_row(0, result), result.weight))
    assert torch.equal(weight.dequantize(), result.weight.dequantize())
    assert weight.bits() == result.weight.bits()


def test_shares():
    second = Team()
    second.rank, second.size = 1, 3
    assert list(second.mine(8)) == [1, 4, 7]
    assert [second.local(index) for index in range(5)] == [None, 0, None, None, 1]


def test_each_process_has_its_own_gpu(monkeypatch):
    assert own_device("cuda:1", {}) == "cuda:1"
    assert own_device("cuda", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == "cuda:1"
    assert own_device("cpu", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == "cpu"
    with pytest.raises(ConfigError, match="set device=cuda, and each has its own"):
        own_device("cuda:1", {"WORLD_SIZE": "2"})


def test_a_process_without_a_share_is_refused(monkeypatch):
    many = Team()
    many.size = 5
    monkeypatch.setattr("crvq.team._current", many)
    with pytest.raises(ConfigError, match=r"4 for 5 processes.*nproc-per-node=4"):
        check_share(4, "batches", "set more")
