"""Speed in the record: of dense weights before, of packed codes after."""

import io
import time

import pytest
import torch
from rich.console import Console

from crvq.errors import ConfigError
from crvq.evaluation.speed import generation_speed
from crvq.pipeline.run import run
from crvq.report.speed_table import speed_table
from crvq.tracking.record_schema import read_record

SPEED = ["eval.speed={prompt_tokens: 12, new_tokens: 3, repeats: 2}"]


def test_a_run_records_both_speeds_and_stays_as_it_was(compose_run, tmp_path):
    plain = read_record(run(compose_run(f"results_dir={tmp_path / 'plain'}")))
    folder = run(compose_run(*SPEED))
    record = read_record(folder)
    speed = record["speed"]
    assert (speed["prompt_tokens"], speed["new_tokens"]) == (12, 3)
    assert speed["full_precision"]["path"] == "dense"
    assert speed["quantized"]["path"] == "packed"
    assert speed["full_precision"]["linear_bytes"] == record["bits"]["quantized_weights"] * 4
    # In memory packed rows begin at whole bytes, and codes are padded to tiles of out features.
    assert 0 < speed["quantized"]["linear_bytes"] < speed["full_precision"]["linear_bytes"]
    for model in (speed["full_precision"], speed["quantized"]):
        assert model["prefill_tokens_per_second"] > 0 < model["decode_tokens_per_second"]
    # The dense weights are back in place for what is measured after it.
    assert record["result_digest"] == plain["result_digest"]
    assert record["perplexity"] == plain["perplexity"]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(speed_table([record]))
    shown = console.export_text()
    assert "packed codes" in shown
    assert "12 prompt tokens, then 3 new ones" in shown


def test_a_format_without_a_kernel_is_timed_dense(compose_run, tiny_overrides):
    record = read_record(run(compose_run("method=full_precision", *SPEED)))
    assert record["speed"]["quantized"] is None
    assert record["speed"]["full_precision"]["path"] == "dense"


def test_it_can_be_added_later(compose_run):
    folder = run(compose_run())
    assert read_record(folder)["speed"] is None
    assert run(compose_run(*SPEED)) == folder
    record = read_record(folder)
    assert record["speed"]["quantized"]["path"] == "packed"
    assert record["added_evaluations"][-1]["added"] == ["speed"]


def test_a_context_that_is_too_short_is_refused(compose_run):
    with pytest.raises(ConfigError, match=r"64; set eval.speed.prompt_tokens=60 or less"):
        run(compose_run("eval.speed={prompt_tokens: 62, new_tokens: 4, repeats: 1}"))


def test_seconds_become_tokens_per_second():
    class Slow(torch.nn.Module):
        """Takes 1 ms per token."""

        def forward(self, input_ids, **_):
            time.sleep(0.001 * input_ids.shape[1])
            self.logits = torch.zeros(1, 1, 4)
            self.past_key_values = None
            return self

    model = Slow()
    prompt = torch.zeros(1, 50, dtype=torch.long)
    speed = generation_speed(model, prompt, 5, 3, torch.device("cpu"), torch.float32)
    assert 500 < speed.prefill <= 1000
    assert 500 < speed.decode <= 1000
