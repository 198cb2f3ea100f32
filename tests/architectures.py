"""Tiny causal models of many architectures, built from config with random weights."""

import torch
import transformers
from transformers import PreTrainedModel

from crvq.models.blocks import run_experts_one_by_one

_COMMON = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GATED = {"intermediate_size": 24, "num_key_value_heads": 1}
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_SETTINGS = {
    "Llama": {**_GATED},
    "Qwen2": {**_GATED},
    "Qwen3": {**_GATED, "head_dim": 8},
    "OPT": {"ffn_dim": 24, "word_embed_proj_dim": 8},
    "GPTNeoX": {"intermediate_size": 24},
    "Gemma": {**_GATED, "head_dim": 8},
    "Gemma2": {**_GATED, "head_dim": 8, **_SLIDING},
    "Gemma3": {**_GATED, "head_dim": 8, **_SLIDING},
    "Phi": {"intermediate_size": 24},
    "Phi3": {**_GATED},
    "GPT2": {"n_inner": 24},
    "Mixtral": {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {**_GATED, **_EXPERTS, "shared_expert_intermediate_size": 12},
    "Qwen3Moe": {**_GATED, **_EXPERTS, "head_dim": 8},
    "GptOss": {
        **_GATED,
        **_SLIDING,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}
_CONFIG_NAMES = {"Gemma3": "Gemma3TextConfig"}
_MODEL_NAMES = {"GPT2": "GPT2LMHeadModel"}

ARCHITECTURES = sorted(_SETTINGS)
MIXTURES = ["Mixtral", "Qwen2Moe", "Qwen3Moe"]


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of two blocks, in eval mode, with weights large enough to tell layers apart."""
    config = getattr(transformers, _CONFIG_NAMES.get(name, f"{name}Config"))(
        **_COMMON, **_SETTINGS[name]
    )
    torch.manual_seed(seed)
    model = getattr(transformers, _MODEL_NAMES.get(name, f"{name}ForCausalLM"))(config)
    model.eval().requires_grad_(False)
    run_experts_one_by_one(model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return model


def tokens(count: int = 4, length: int = 24, seed: int = 1) -> torch.Tensor:
    """Random token ids ``(count, length)``."""
    return torch.randint(3, 96, (count, length), generator=torch.Generator().manual_seed(seed))
