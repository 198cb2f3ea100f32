"""A whole run on every architecture: quantize all blocks, evaluate, leave a record."""

import math

import pytest
from transformers import PreTrainedTokenizerFast

from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from tests.architectures import ARCHITECTURES, MIXTURES, build
from tests.conftest import save_tokenizer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_quantized(name, compose_run, tmp_path, monkeypatch):
    # AutoTokenizer gives Qwen2 a class of its own, which cannot read a tokenizer of words.
    monkeypatch.setattr("crvq.models.load.AutoTokenizer", PreTrainedTokenizerFast)
    model = build(name)
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    folder = run(compose_run(f"model.path={tmp_path / 'model'}"))
    record = read_record(folder)
    assert record["status"] == "complete"
    result = record["perplexity"]["file"]
    assert math.isfinite(result["full_precision"])
    assert math.isfinite(result["quantized"])
    assert result["quantized"] != result["full_precision"]
    bits = record["bits"]
    assert bits["average_quantized_weights"] * bits["quantized_weights"] == pytest.approx(
        8 * record["packed_bytes"], rel=1e-3
    )
    matrices = sum(
        p.numel()
        for key, p in model.named_parameters()
        if p.ndim > 1 and ".layers." in f".{key.replace('.h.', '.layers.')}"
    )
    left = [note for note in record["notes"] if "stays in full precision" in note]
    if name == "GptOss":
        assert len(left) == 4  # two fused weights in each of two blocks
        assert "experts.gate_up_proj stays" in left[0]
    else:
        assert not left
        # Routers are no linears: their few weights decide by rank and stay as they are.
        routers = 2 * 4 * 16 if name in MIXTURES else 0
        assert bits["quantized_weights"] == matrices - routers
