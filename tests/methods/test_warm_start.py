import pytest
import torch
from pydantic import ValidationError

from crvq.methods.crvq_budget import crvq_layouts
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.vq.storage import load_codebook
from tests.methods.linear_examples import crvq, random_linear, relative_loss


def weights_of(method, block, linears):
    return {one.source.kind: one.weight for one in method.quantize_block(block, linears)}


def test_codebooks_start_from_the_block_before(monkeypatch):
    """k-means is asked for the first block and for a kind that the block before lacks."""
    asked = []
    original = initial_codebooks

    def spy(coded, *arguments):
        asked.append(coded[0].weight.shape)
        return original(coded, *arguments)

    monkeypatch.setattr("crvq.methods.crvq.initial_codebooks", spy)
    method = crvq(warm_start=True, critical_ratio=0.2)
    method.on_block_stored(weights_of(method, 0, [random_linear(seed=1)]))
    assert len(asked) == 1
    second = [random_linear(seed=2), random_linear(40, 32, seed=3, kind="attn.q")]
    found = weights_of(method, 1, second)
    assert [tuple(shape) for shape in asked[1:]] == [(40, 32)]
    assert 0 < relative_loss(second[0], found["mlp.up_proj"].dequantize()) < 0.5


def test_off_by_default():
    linear = random_linear(seed=2)
    method = crvq(critical_ratio=0.2)
    cold = weights_of(method, 1, [linear])["mlp.up_proj"]
    method.on_block_stored(weights_of(method, 0, [random_linear(seed=1)]))
    again = weights_of(method, 1, [linear])["mlp.up_proj"]
    assert torch.equal(cold.dequantize(), again.dequantize())


@pytest.mark.parametrize("bits", [3, 5])
def test_codebooks_of_another_size_are_not_taken(bits):
    linear = random_linear(seed=2)
    method = crvq(warm_start=True, critical_ratio=0.2)
    cold = weights_of(method, 1, [linear])["mlp.up_proj"]
    method.on_block_stored(weights_of(crvq(codebook_bits=bits), 0, [random_linear(seed=1)]))
    again = weights_of(method, 1, [linear])["mlp.up_proj"]
    for mine, theirs in zip(cold.codebooks, again.codebooks, strict=True):
        assert torch.equal(load_codebook(mine), load_codebook(theirs))


@pytest.mark.parametrize("scope", ["block", "model"])
def test_codebooks_that_linears_share_are_no_start(scope):
    with pytest.raises(ValidationError, match="set codebook_scope=linear"):
        crvq(warm_start=True, codebook_scope=scope)


def test_a_budget_does_not_share_what_is_to_be_a_start():
    layouts = list(crvq_layouts(crvq(warm_start=True).params))
    assert {layout.codebook_dtype for layout in layouts} == {"float16", "int8"}
    assert {layout.codebook_scope for layout in layouts} == {"linear"}
