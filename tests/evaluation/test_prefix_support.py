import pytest
import torch
import transformers

from crvq.evaluation.prefix_rows import batch, merge
from crvq.evaluation.prefix_support import sees_prefix_rows
from tests.architectures import ARCHITECTURES, build

ROW = merge([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 12, 13]])
SEQUENCES = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [3, 4, 5, 20, 21, 22, 23]]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_whoever_passes_computes_branches_right(name):
    model = build(name)
    with torch.inference_mode():
        seen = sees_prefix_rows(model, None, ROW, torch.float32)
        if not seen:
            assert name in {"Gemma2", "Gemma3", "GptOss"}  # windows
            return
        row = merge(SEQUENCES)
        logits = model(**batch([row], model.device).arguments(), use_cache=False).logits[0]
        for path, sequence in zip(row.paths, SEQUENCES, strict=True):
            alone = model(torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits[path], alone, rtol=1e-3, atol=1e-3)


def small(config, model, **more):
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(vocab_size=96, **more))
    for parameter in built.eval().requires_grad_(False).parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return built


@pytest.mark.parametrize(
    "model",
    [
        lambda: small("BloomConfig", "BloomForCausalLM", hidden_size=16, n_layer=2, n_head=2),
        lambda: small(
            "MistralConfig",
            "MistralForCausalLM",
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=4,
        ),
    ],
    ids=["ALiBi", "sliding window"],
)
def test_models_that_cannot_are_found_out(model):
    assert not sees_prefix_rows(model(), None, ROW, torch.float32)


def test_a_model_that_ignores_the_mask_is_found_out(llama, monkeypatch):
    body = llama.model.forward
    monkeypatch.setattr(
        llama.model, "forward", lambda *a, attention_mask=None, **more: body(*a, **more)
    )
    assert not sees_prefix_rows(llama, None, ROW, torch.float32)


def test_a_model_that_ignores_positions_is_found_out(llama, monkeypatch):
    body = llama.model.forward
    monkeypatch.setattr(
        llama.model, "forward", lambda *a, position_ids=None, **more: body(*a, **more)
    )
    assert not sees_prefix_rows(llama, None, ROW, torch.float32)
