import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from crvq.models.digest import model_digest, tensor_digest, tokenizer_digest, weights_digest
from crvq.models.residence import IN_MEMORY


def test_a_tensors_digest_heeds_values_shape_and_type():
    base = torch.arange(6.0)
    others = [base + 1e-6, base.view(2, 3), base.double(), base.bfloat16(), base.flip(0)]
    digests = {tensor_digest(tensor) for tensor in [base, *others]}
    assert len(digests) == 6
    assert tensor_digest(base.clone()) == tensor_digest(base)
    assert tensor_digest(base.view(2, 3).T.contiguous().T) == tensor_digest(base.view(2, 3))


def test_a_models_digest_heeds_every_weight_and_its_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    digest = weights_digest(IN_MEMORY.tensors(model))
    swapped = nn.Sequential(model[1], model[0])
    assert weights_digest(IN_MEMORY.tensors(swapped)) != digest
    with torch.no_grad():
        model[1].bias[2] += 1e-3
    assert weights_digest(IN_MEMORY.tensors(model)) != digest


def reloaded(folder, change=None):
    """The model of a folder after its config.json was changed."""
    file = folder / "config.json"
    if change:
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}},
        {"rms_norm_eps": 1e-2},
        {"hidden_act": "gelu"},
        {"max_position_embeddings": 32},
        {"model_type": "mistral", "sliding_window": 4, "architectures": ["MistralForCausalLM"]},
    ],
)
def test_a_models_digest_heeds_what_equal_weights_compute(model_folder, change):
    one = reloaded(model_folder)
    other = reloaded(model_folder, change)
    assert weights_digest(IN_MEMORY.tensors(one)) == weights_digest(IN_MEMORY.tensors(other))
    assert model_digest(one) != model_digest(other)


def test_a_models_digest_heeds_its_attention_and_its_computed_buffers(tiny_llama):
    first = model_digest(tiny_llama)
    tiny_llama.set_attn_implementation("eager")
    second = model_digest(tiny_llama)
    tiny_llama.model.rotary_emb.inv_freq.mul_(2)
    assert len({first, second, model_digest(tiny_llama)}) == 3


def test_a_models_digest_is_that_of_its_copies(model_folder, tmp_path):
    one = reloaded(model_folder)
    one.save_pretrained(tmp_path / "elsewhere")
    again = reloaded(tmp_path / "elsewhere", {"transformers_version": "5.0.0"})
    assert model_digest(again) == model_digest(one)
    again.generation_config = GenerationConfig(temperature=0.1)  # nothing that is measured here
    assert model_digest(again) == model_digest(one)


def test_a_tokenizer_is_known_by_what_it_does(model_folder):
    first, second = (AutoTokenizer.from_pretrained(model_folder) for _ in range(2))
    assert tokenizer_digest(first) == tokenizer_digest(second)
    second.add_tokens(["w1000"])
    assert tokenizer_digest(first) != tokenizer_digest(second)
    third = AutoTokenizer.from_pretrained(model_folder, eos_token="w3")
    assert tokenizer_digest(first) != tokenizer_digest(third)
    fourth = AutoTokenizer.from_pretrained(model_folder)
    fourth.chat_template = "{{ messages }}"
    assert tokenizer_digest(first) != tokenizer_digest(fourth)
