import pytest
import torch

from crvq.errors import QuantizationError
from crvq.methods import LinearShape
from crvq.methods.crvq_params import CrvqParams
from crvq.vq.hessian import Hessian
from crvq.vq.importance import importance_names
from crvq.weights import unpack_weight
from tests.methods.linear_examples import (
    crvq,
    quantize,
    random_linear,
    relative_loss,
    second_moment,
)


def stored(weight):
    """The weight as it comes back from its packed tensors."""
    together = weight.shared()
    return unpack_weight(weight.header(), weight.pack(), together[1] if together else {})


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("reorder", ["stratified", "sorted", "critical_first"])
def test_the_loss_told_is_that_of_the_stored_weight(reorder, dtype):
    linear = random_linear()
    result = quantize(linear, critical_ratio=0.25, reorder=reorder, codebook_dtype=dtype)
    exact = relative_loss(linear, stored(result.weight).dequantize())
    assert result.relative_loss == pytest.approx(exact, rel=1e-3)
    energy = float(torch.trace(linear.weight @ linear.hessian.matrix @ linear.weight.T))
    assert result.loss == pytest.approx(exact * energy / len(linear.weight), rel=1e-3)
    assert result.loss > 0


def test_no_critical_channels_is_one_codebook():
    linear = random_linear()
    none = quantize(linear, critical_ratio=0.0)
    alone = quantize(linear, critical_ratio=0.5, extended_codebooks=0)
    assert len(none.weight.codebooks) == 1
    assert none.critical_channels == alone.critical_channels == 0
    assert torch.equal(none.weight.dequantize(), alone.weight.dequantize())
    assert none.weight.bits() == alone.weight.bits()


def test_more_critical_channels_lose_less_and_cost_more():
    linear = random_linear()
    results = [quantize(linear, critical_ratio=ratio) for ratio in (0.0, 0.25, 0.5, 1.0)]
    losses = [relative_loss(linear, result.weight.dequantize()) for result in results]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4
    assert [r.critical_channels for r in results] == [0, 8, 16, 32]
    codes = [r.weight.bits().codes for r in results]
    assert codes == sorted(set(codes))


def test_critical_channels_are_the_important_ones():
    """One channel far hotter than all others ends in the critical group, whatever its place."""
    h = torch.eye(32)
    h[17, 17] = 1000.0
    linear = random_linear(hessian=Hessian(h))
    result = quantize(linear, critical_ratio=0.02, importance="error_activation")
    assert result.critical_channels == 4
    assert result.critical_in_features == result.weight.order[:4].tolist()
    assert 17 in result.critical_in_features


def test_padding_is_not_told_as_critical():
    """Every group is critical, the padded one too."""
    linear = random_linear(in_features=30)
    result = quantize(linear, critical_ratio=1.0, critical_rounding="ceil")
    assert sorted(result.critical_in_features) == list(range(30))


def test_a_seed_gives_one_result_whatever_came_before():
    first, second = random_linear(seed=1), random_linear(seed=2, kind="mlp.gate_proj")
    forward = {r.source.kind: r for r in crvq().quantize_block(0, [first, second])}
    backward = {r.source.kind: r for r in crvq().quantize_block(3, [second, first])}
    for kind, result in forward.items():
        assert torch.equal(result.weight.dequantize(), backward[kind].weight.dequantize())


def test_linears_that_read_one_input_come_out_as_with_copies_of_it():
    shared = Hessian(second_moment(30))
    copy = Hessian(second_moment(30))
    one, other = (random_linear(in_features=30, seed=s, hessian=shared) for s in (1, 2))
    apart = random_linear(in_features=30, seed=2, hessian=copy)
    _, second = crvq().quantize_block(0, [one, other])
    (alone,) = crvq().quantize_block(0, [apart])
    assert torch.equal(second.weight.dequantize(), alone.weight.dequantize())


@pytest.mark.parametrize("importance", importance_names())
@pytest.mark.parametrize("in_features", [32, 30])
def test_every_importance_quantizes(importance, in_features):
    linear = random_linear(in_features=in_features)
    result = quantize(linear, importance=importance, critical_ratio=0.2)
    assert relative_loss(linear, result.weight.dequantize()) < 0.5
    # Padding is never among the critical channels.
    assert bool((result.weight.order[: result.critical_channels] < in_features).all())


@pytest.mark.parametrize(
    ("in_features", "d"), [(30, 4), (32, 5), (3, 8), (8, 8), (1, 4)], ids=lambda n: str(n)
)
def test_in_features_that_do_not_divide_are_padded_and_counted(in_features, d):
    linear = random_linear(in_features=in_features)
    result = quantize(linear, group_size=d, critical_ratio=0.2)
    restored = stored(result.weight).dequantize()
    assert restored.shape == linear.weight.shape
    padding = -in_features % d
    groups = (in_features + padding) // d
    assert result.weight.code.groups == groups
    padded = f"{padding} of {in_features + padding} channels are padding"
    assert (padded in result.notes) == (padding > 0)
    # The solver also answers for the padding, whose energy is next to nothing.
    exact = relative_loss(linear, restored)
    assert result.relative_loss == pytest.approx(exact, rel=0.02, abs=1e-5)


def test_fewer_vectors_than_centroids():
    linear = random_linear(out_features=2, in_features=8)
    result = quantize(linear, codebook_bits=8, critical_ratio=0.5)
    assert len(result.weight.codebooks[0]["entries"]) == 4
    assert any("codebook 0 has 4 entries instead of 256" in note for note in result.notes)
    assert result.relative_loss < 1e-4
    assert torch.equal(stored(result.weight).dequantize(), result.weight.dequantize())


@pytest.mark.parametrize(
    ("policy", "groups"), [("floor", 0), ("at_least_one", 1), ("nearest", 0), ("ceil", 1)]
)
def test_a_ratio_that_gives_no_whole_group(policy, groups):
    linear = random_linear()
    result = quantize(linear, critical_ratio=0.02, critical_rounding=policy)
    assert result.critical_channels == 4 * groups
    effective = crvq(critical_ratio=0.02, critical_rounding=policy).effective(
        [LinearShape(linear.kind, 24, 32)]
    )
    assert effective["critical_ratio"] == groups * 4 / 32
    assert effective["critical_channels"] == {linear.kind: groups * 4}


def test_the_effective_ratio_is_a_mean_over_weights():
    shapes = [LinearShape("a", 10, 40), LinearShape("b", 30, 80)]
    effective = crvq(critical_ratio=0.1, group_size=8).effective(shapes)
    assert effective["critical_channels"] == {"a": 8, "b": 8}
    assert effective["critical_ratio"] == pytest.approx((10 * 8 + 30 * 8) / (10 * 40 + 30 * 80))
    assert crvq().effective([])["critical_ratio"] == 0.0


@pytest.mark.parametrize("in_features", [32, 30])
def test_dead_channels_are_told_and_keep_their_weights(in_features):
    h = second_moment(in_features)
    h[:5] = 0
    h[:, :5] = 0
    linear = random_linear(64, in_features, hessian=Hessian(h))
    result = quantize(linear, codebook_bits=8, critical_ratio=1.0, extended_bits=8)
    assert any(note.startswith("5 dead channels") for note in result.notes)
    restored = result.weight.dequantize()
    # Near the original weights, not left to chance.
    error = (restored - linear.weight)[:, :5].norm() / linear.weight[:, :5].norm()
    assert error < 0.7


def test_an_expert_that_saw_no_token_is_quantized_by_its_weights_alone():
    linear = random_linear(hessian=Hessian(torch.zeros(32, 32)))
    result = quantize(linear, codebook_bits=8, critical_ratio=0.5)
    delta = (linear.weight - result.weight.dequantize()).square().sum()
    assert result.relative_loss == pytest.approx(
        float(delta / linear.weight.square().sum()), rel=1e-3
    )
    assert result.relative_loss < 0.2


@pytest.mark.parametrize("scope", ["linear", "block"])
def test_zero_weights(scope):
    zero = random_linear(kind="zero")
    zero.weight.zero_()
    rows = random_linear(kind="rows", seed=3)
    rows.weight[::2] = 0
    results = list(crvq(critical_ratio=0.3, codebook_scope=scope).quantize_block(0, [zero, rows]))
    for result in results:
        assert bool(torch.isfinite(result.weight.dequantize()).all())
        assert torch.equal(stored(result.weight).dequantize(), result.weight.dequantize())
    assert float(results[0].weight.dequantize().abs().max()) < 1e-3
    assert results[0].relative_loss == 0.0
    assert float(results[1].weight.dequantize()[::2].abs().max()) < 1e-2
    assert 0 < results[1].relative_loss < 0.6


def test_damping_is_heeded():
    linear = random_linear()
    soft, hard = (quantize(linear, damping=damping, max_rounds=0) for damping in (1e-4, 1.0))
    assert not torch.equal(soft.weight.dequantize(), hard.weight.dequantize())


def test_a_block_without_linears():
    assert list(crvq(codebook_scope="block").quantize_block(0, [])) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"importance": "magic"}, "should be 'error_activation'"),
        ({"reorder": "none", "critical_ratio": 0.1}, "critical_ratio=0"),
        ({"critical_ratio": 1.5}, "less than or equal to 1"),
        ({"codebook_bits": 0}, "greater than or equal to 1"),
        ({"codebook_bits": 17}, "less than or equal to 16"),
        ({"group_size": 0}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used(params, message):
    with pytest.raises(ValueError, match=message):
        CrvqParams(**params)


def test_no_reordering_is_allowed_without_critical_channels():
    result = quantize(random_linear(), reorder="none", critical_ratio=0)
    assert "order" not in result.weight.pack()
    assert result.weight.bits().permutation == 0


@pytest.mark.parametrize("scope", ["linear", "block"])
def test_damping_that_had_to_grow_is_told_and_what_it_cannot_mend_has_the_linears_name(scope):
    linear = random_linear(in_features=16, hessian=Hessian(torch.ones(16, 16)))
    result = quantize(linear, damping=0.0, codebook_scope=scope)
    assert any(note.startswith("damping grew from 0 to") for note in result.notes)
    assert not quantize(linear, codebook_scope=scope).notes
    hopeless = torch.eye(16)
    hopeless[0, 1] = hopeless[1, 0] = 5.0
    linear = random_linear(in_features=16, hessian=Hessian(hopeless))
    with pytest.raises(
        QuantizationError, match=r"layers\.0\.mlp\.up_proj: .*not positive definite"
    ):
        quantize(linear, codebook_scope=scope)
