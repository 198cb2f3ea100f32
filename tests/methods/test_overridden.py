"""Parameters of some linear layers alone."""

import pytest
import torch

from crvq.errors import ConfigError
from crvq.methods import create_method
from crvq.methods.baseline_params import GptqParams
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.overridden import OverriddenMethod, check_patterns, params_for
from tests.methods.linear_examples import QUICK, random_linear


def linears():
    kinds = ("q", "k", "down")
    return [random_linear(seed=s, kind=k, name=f"m.0.{k}") for s, k in enumerate(kinds)]


def quantized(method, block):
    return {done.source.kind: done.weight for done in method.quantize_block(0, block)}


def test_each_layer_is_as_the_method_alone_makes_it():
    block = linears()
    method = OverriddenMethod("gptq", GptqParams(bits=3), {"*.down": {"bits": 4}}, 0)
    found = quantized(method, block)
    three = quantized(create_method("gptq", GptqParams(bits=3), 0), block)
    four = quantized(create_method("gptq", GptqParams(bits=4), 0), block)
    for kind, expected in (("q", three), ("k", three), ("down", four)):
        assert torch.equal(found[kind].dequantize(), expected[kind].dequantize())
        assert found[kind].bits() == expected[kind].bits()


def test_later_patterns_win():
    base = GptqParams(bits=3)
    overrides = {"*": {"bits": 2, "group_size": 64}, "m.1.*": {"bits": 5}}
    assert params_for("m.0.q", base, overrides).bits == 2
    assert params_for("m.1.q", base, overrides).bits == 5
    assert params_for("m.1.q", base, overrides).group_size == 64


def test_layers_with_own_parameters_share_codebooks_among_themselves():
    params = CrvqParams(**{**QUICK, "codebook_scope": "block"})
    method = OverriddenMethod("crvq", params, {"*.down": {"codebook_bits": 5}}, 0)
    found = quantized(method, linears())
    assert found["q"].codebook_set == found["k"].codebook_set == "block-0"
    assert found["down"].codebook_set == "block-0-1"
    assert found["down"].codebook_share == 1
    assert len(found["down"].codebooks[0]["entries"]) == 32


def test_codebooks_of_the_whole_model_are_refused():
    params = CrvqParams(codebook_scope="model")
    with pytest.raises(ConfigError, match=r"set crvq\.codebook_scope=linear or block"):
        OverriddenMethod("crvq", params, {"*.down": {"codebook_bits": 5}}, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.dwn_proj": {"bits": 4}}, "names are like .*down_proj"),
        ({"model.layers.9.*": {"bits": 4}}, "matches none of the 2 linear layers"),
    ],
)
def test_a_pattern_without_layers_is_refused(overrides, message):
    names = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
    with pytest.raises(ConfigError, match=message):
        check_patterns(overrides, names)


def test_parameters_are_checked_before_work():
    with pytest.raises(ConfigError, match=r"overrides: \*\.q: bits"):
        OverriddenMethod("gptq", GptqParams(), {"*.q": {"bits": 99}}, 0)
