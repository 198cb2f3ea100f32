import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig, OPTConfig

from crvq.models.load import context_limit


class Model:
    def __init__(self, config):
        self.config = config


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=77), 77),
        (OPTConfig(max_position_embeddings=78), 78),
        (GPT2Config(n_positions=79), 79),
        (BloomConfig(), None),
    ],
    ids=["llama", "opt", "gpt2", "bloom-has-none"],
)
def test_the_limit_is_found_under_each_familys_name(config, limit):
    assert context_limit(Model(config)) == limit
