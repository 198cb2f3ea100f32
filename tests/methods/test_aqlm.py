import pytest
import torch

from crvq.methods.aqlm import AqlmMethod, AqlmParams
from tests.methods.linear_examples import quantize as quantize_crvq
from tests.methods.linear_examples import random_linear, relative_loss
from tests.methods.method_checks import check_result, planned_bits, quantize

QUICK = {"codebook_bits": 3, "group_size": 4, "max_rounds": 2, "kmeans_iterations": 3}


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("in_features", [32, 30])
def test_what_is_told_is_what_is_stored(in_features, codebooks, dtype):
    linear = random_linear(in_features=in_features)
    params = {**QUICK, "codebooks": codebooks, "codebook_dtype": dtype}
    result = quantize("aqlm", linear, **params)
    check_result(result)
    assert result.weight.bits() == planned_bits("aqlm", linear, **params)
    assert [c.shape for c in result.weight.code.codes] == [(24, 8)] * codebooks
    assert result.weight.bits().permutation == 0
    assert any("2 of 32 channels are padding" in note for note in result.notes) == (
        in_features == 30
    )


def test_one_codebook_is_crvq_without_critical_channels_or_order():
    linear = random_linear()
    crvq = quantize_crvq(linear, **QUICK, critical_ratio=0.0, reorder="none")
    aqlm = quantize("aqlm", linear, **QUICK, relative_gain=0.01)
    # CRVQ ranks channels first, which moves its generator on; the rest is one solver.
    assert aqlm.weight.bits() == crvq.weight.bits()
    assert aqlm.relative_loss == pytest.approx(crvq.relative_loss, rel=0.3)


def test_every_codebook_serves_every_group():
    linear = random_linear()
    losses = [
        relative_loss(linear, quantize("aqlm", linear, **QUICK, codebooks=m).weight.dequantize())
        for m in (1, 2, 3)
    ]
    assert losses[1] < 0.7 * losses[0]
    assert losses[2] < 0.7 * losses[1]


def test_more_entries_than_vectors():
    linear = random_linear(2, 8)
    params = {**QUICK, "codebook_bits": 8, "codebooks": 3}
    result = quantize("aqlm", linear, **params)
    assert len(result.weight.codebooks) == 1
    assert any("codebook 0 has 4 entries instead of 256" in note for note in result.notes)
    assert any("codebooks 1 to 2 left out" in note for note in result.notes)
    assert result.weight.bits() == planned_bits("aqlm", linear, **params)


def test_a_seed_gives_one_result():
    linear = random_linear(48, 64)
    params = {**QUICK, "kmeans_sample": 64}
    one, other = (quantize("aqlm", linear, **params).weight.dequantize() for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"codebooks": 0}, "greater than or equal to 1"),
        ({"codebook_bits": 17}, "less than or equal to 16"),
        ({"critical_ratio": 0.1}, "Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        AqlmParams(**params)


def test_a_budget_stores_codebooks_in_8_bits_only_where_that_buys_longer_vectors_or_more_codes():
    layouts = list(AqlmMethod(AqlmParams(), 0).layouts())
    seen = [(p.codebooks * p.codebook_bits / p.group_size, p.group_size) for p in layouts]
    assert seen == sorted(seen, reverse=True)
    for place in set(seen):
        dtypes = [p.codebook_dtype for p, at in zip(layouts, seen, strict=True) if at == place]
        assert dtypes == sorted(dtypes)  # float16 before int8
        assert set(dtypes) == {"float16", "int8"}
