"""A whole model with quantized linears, against the same model with decoded weights."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from crvq.inference import QuantizedLinear
from crvq.inference.model import linear_bytes, replace_linears
from tests.inference.linears import random_weight

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    tie_word_embeddings=False,
)  # fmt: skip


def weights_of(model):
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "layers" in name:
            # q, k and v, and gate and up, get the same permutation: that of their number of inputs.
            weight = random_weight(
                out=module.out_features, in_features=module.in_features, bits=(4, 4), coverage=[1]
            )
            weight.code.scales = (weight.code.scales * 0.1).half().float()
            weights[name] = weight
    return weights


def test_a_model_with_quantized_linears_generates_what_the_decoded_model_does():
    torch.manual_seed(0)
    dense = LlamaForCausalLM(CONFIG).eval()
    weights = weights_of(dense)
    for name, weight in weights.items():
        dense.get_submodule(name).weight.data = weight.dequantize()
    with torch.device("meta"):
        packed = LlamaForCausalLM(CONFIG).eval()
    replace_linears(packed, weights)
    rest = {k: v for k, v in dense.state_dict().items() if k.rpartition(".")[0] not in weights}
    packed.load_state_dict(rest, strict=False, assign=True)
    packed.model.rotary_emb = dense.model.rotary_emb  # computed, not stored
    assert not any(t.is_meta for t in packed.state_dict().values())
    layer = packed.model.layers[0]
    assert layer.self_attn.q_proj.reorder is layer.self_attn.k_proj.reorder
    prompt = torch.randint(64, (1, 20))
    with torch.no_grad():
        assert torch.allclose(packed(prompt).logits, dense(prompt).logits, atol=1e-4)
    tokens = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(packed.generate(prompt, **tokens), dense.generate(prompt, **tokens))
    count = sum(isinstance(module, QuantizedLinear) for module in packed.modules())
    assert count == len(weights)
    assert (
        0 < linear_bytes(packed) < 4 * sum(w.out_features * w.in_features for w in weights.values())
    )


def test_a_weight_of_another_model_is_refused_and_nothing_is_replaced():
    model = LlamaForCausalLM(CONFIG)
    weights = weights_of(model)
    weights["model.layers.1.mlp.down_proj"] = random_weight(out=32, in_features=48)
    with pytest.raises(ValueError, match="different models"):
        replace_linears(model, weights)
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    with pytest.raises(ValueError, match=r"no module 'layers\.9'"):
        replace_linears(model, {"layers.9": random_weight()})


def test_a_missing_bias_is_refused():
    with torch.device("meta"):
        model = nn.ModuleDict({"a": nn.Linear(64, 40)})
    with pytest.raises(ValueError, match="give its value in biases"):
        replace_linears(model, {"a": random_weight()})
    replace_linears(model, {"a": random_weight()}, {"a": torch.ones(40)})
    zero = model["a"](torch.zeros(1, 64))
    assert torch.equal(zero, torch.ones(1, 40))
