import pytest
from torch import nn
from transformers import JambaConfig, JambaForCausalLM

from crvq.errors import SourceError
from crvq.models.blocks import find_blocks
from tests.architectures import ARCHITECTURES, build


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_decoders_blocks_are_found(name):
    model = build(name)
    path, blocks = find_blocks(model)
    assert len(blocks) == model.config.num_hidden_layers
    assert list(model.get_submodule(path)) == blocks


def test_the_largest_list_of_equal_blocks_with_linears_wins():
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    model.large = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
    model.mixed = nn.ModuleList([nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64))])
    model.norms = nn.ModuleList(nn.LayerNorm(10_000) for _ in range(2))
    model.empty = nn.ModuleList()
    path, blocks = find_blocks(model)
    assert path == "large"
    assert blocks == list(model.large)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(SourceError, match="Linear has no list of equal blocks"):
        find_blocks(nn.Linear(2, 2))


def test_a_hybrid_model_is_called_one_even_if_its_experts_are_equal_lists():
    config = JambaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        num_experts=2,
        mamba_d_state=4,
        mamba_d_conv=2,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    )
    with pytest.raises(
        SourceError,
        match=r"JambaForCausalLM is a hybrid model: its blocks model\.layers are of 2 kinds "
        r"\(JambaAttentionDecoderLayer, JambaMambaDecoderLayer\)",
    ):
        find_blocks(JambaForCausalLM(config))
    hybrid = nn.Module()
    experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    hybrid.layers = nn.ModuleList([nn.Sequential(experts), nn.Linear(8, 8)])
    with pytest.raises(SourceError, match="hybrid"):
        find_blocks(hybrid)
