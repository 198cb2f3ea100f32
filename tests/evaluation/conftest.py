import pytest
import torch
import transformers


def build(name):
    """A tiny causal model of random weights; its vocabulary has 50 tokens."""
    shape = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    more = {
        "Llama": {"intermediate_size": 24},
        "OPT": {"ffn_dim": 24, "word_embed_proj_dim": 8},
        "GPTNeoX": {"intermediate_size": 24},
        "Gemma2": {
            "intermediate_size": 24,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "final_logit_softcapping": 0.5,
        },
        "Cohere": {"intermediate_size": 24, "logit_scale": 0.25},
    }[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**shape, **more, pad_token_id=0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # random weights of 0.02 make every logit alike
        parameter.mul_(20 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture
def llama():
    return build("Llama")


@pytest.fixture(params=["Llama", "OPT", "GPTNeoX", "Gemma2", "Cohere"])
def model(request):
    return build(request.param)
