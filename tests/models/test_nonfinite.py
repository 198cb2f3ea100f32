import pytest
import torch

from crvq.models.nonfinite import first_nonfinite_module


@pytest.mark.parametrize(
    "name", ["model.embed_tokens", "model.layers.1.mlp.up_proj", "model.norm", "lm_head"]
)
def test_the_innermost_first_module_is_named(tiny_llama, name):
    tiny_llama.get_submodule(name).weight.data[0] = float("nan")
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert first_nonfinite_module(tiny_llama, lambda: tiny_llama(tokens)) == name


def test_a_sound_model_has_none_and_keeps_no_hooks(tiny_llama):
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert first_nonfinite_module(tiny_llama, lambda: tiny_llama(tokens)) is None
    assert not any(m._forward_hooks for m in tiny_llama.modules())
