import pytest
import torch

from crvq.evaluation.finite import first_nonfinite_module


@pytest.mark.parametrize(
    "name", ["model.embed_tokens", "model.layers.1.mlp.up_proj", "model.norm", "lm_head"]
)
def test_the_innermost_first_module_is_named(llama, name):
    llama.get_submodule(name).weight.data[0] = float("nan")
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert first_nonfinite_module(llama, lambda: llama(tokens)) == name


def test_a_sound_model_has_none_and_keeps_no_hooks(llama):
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert first_nonfinite_module(llama, lambda: llama(tokens)) is None
    assert not any(m._forward_hooks for m in llama.modules())
