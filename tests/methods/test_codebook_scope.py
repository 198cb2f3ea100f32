import pytest
import torch

from crvq.weights import unpack_weight
from tests.methods.linear_examples import crvq, random_linear, relative_loss

BLOCKS = 3


def block(index):
    """Linears of one block: two kinds, of different width."""
    shapes = {"attn.q": (24, 32), "mlp.down": (16, 40)}
    return [
        random_linear(*shape, seed=10 * index + i, kind=kind, name=f"layers.{index}.{kind}")
        for i, (kind, shape) in enumerate(shapes.items())
    ]


def kind_weights(blocks):
    kinds = {}
    for linear in (linear for block in blocks for linear in block):
        kinds[linear.kind] = kinds.get(linear.kind, 0) + linear.weight.numel()
    return kinds


def set_bytes(weight):
    return sum(t.numel() * t.element_size() for t in weight.shared()[1].values())


def surveyed(dtype="float16", **params):
    blocks = [block(index) for index in range(BLOCKS)]
    method = crvq(codebook_scope="model", codebook_dtype=dtype, survey_blocks=2, **params)
    wanted = method.prepare_blocks(BLOCKS)
    method.prepare([blocks[index] for index in wanted], kind_weights(blocks))
    return method, blocks


def all_weights(method, blocks):
    return [
        result.weight
        for index, linears in enumerate(blocks)
        for result in method.quantize_block(index, linears)
    ]


def test_a_blocks_linears_share_one_set_and_its_bytes():
    linears = block(0)
    results = list(crvq(codebook_scope="block", critical_ratio=0.2).quantize_block(4, linears))
    weights = [result.weight for result in results]
    assert {weight.shared()[0] for weight in weights} == {"block-4"}
    for name, part in weights[0].shared()[1].items():
        assert torch.equal(part, weights[1].shared()[1][name])
    total = sum(weight.bits().codebooks for weight in weights)
    assert total == pytest.approx(8 * set_bytes(weights[0]))
    for linear, result in zip(linears, results, strict=True):
        restored = unpack_weight(
            result.weight.header(), result.weight.pack(), weights[0].shared()[1]
        )
        exact = relative_loss(linear, restored.dequantize())
        assert result.relative_loss == pytest.approx(exact, rel=1e-3)


def test_a_block_where_extended_codebooks_cover_only_some_linears():
    """floor gives λ·40/4 = 1 group here and λ·32/4 = 0 there."""
    linears = block(0)
    results = list(
        crvq(
            codebook_scope="block", critical_ratio=0.11, critical_rounding="floor", extended_bits=2
        ).quantize_block(0, linears)
    )
    assert [result.critical_channels for result in results] == [0, 4]
    assert [r.weight.code.coverage() for r in results] == [[8, 0, 0, 0], [10, 1, 1, 1]]
    for linear, result in zip(linears, results, strict=True):
        weight = result.weight
        restored = unpack_weight(weight.header(), weight.pack(), weight.shared()[1])
        assert torch.equal(restored.dequantize(), weight.dequantize())
        assert relative_loss(linear, weight.dequantize()) < 0.5


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_models_linears_of_a_kind_share_one_set(dtype):
    method, blocks = surveyed(dtype)
    weights = all_weights(method, blocks)
    by_set = {}
    for weight in weights:
        by_set.setdefault(weight.shared()[0], []).append(weight)
    assert {name: len(members) for name, members in by_set.items()} == {
        "attn.q": BLOCKS,
        "mlp.down": BLOCKS,
    }
    for members in by_set.values():
        total = sum(weight.bits().codebooks for weight in members)
        assert total == pytest.approx(8 * set_bytes(members[0]))
    # What is stored once for the model is what each weight decodes with.
    stored = method.shared_tensors()
    for name, members in by_set.items():
        for key, part in members[0].shared()[1].items():
            assert torch.equal(stored[f"{name}.{key}"], part)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_resumed_method_goes_on_with_the_stored_codebooks(dtype):
    method, blocks = surveyed(dtype)
    resumed = crvq(codebook_scope="model", codebook_dtype=dtype, survey_blocks=2)
    resumed.prepare([], kind_weights(blocks))
    resumed.restore_shared(method.shared_tensors())
    for mine, theirs in zip(all_weights(resumed, blocks), all_weights(method, blocks), strict=True):
        assert torch.equal(mine.dequantize(), theirs.dequantize())
        assert mine.bits() == theirs.bits()
        assert all(torch.equal(t, theirs.pack()[name]) for name, t in mine.pack().items())


def test_a_kind_that_no_surveyed_block_has_brings_its_own_codebooks():
    method, _ = surveyed()
    stranger = random_linear(kind="mlp.only_here", seed=77)
    (result,) = method.quantize_block(1, [stranger])
    stored = sum(t.numel() * t.element_size() for t in result.weight.pack().values())
    assert result.weight.shared() is None
    assert result.weight.bits().total == 8 * stored


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_surveyed_blocks_are_spread_over_the_model(count, wanted):
    chosen = crvq(codebook_scope="model", survey_blocks=wanted).prepare_blocks(count)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(count, wanted)
    assert all(0 <= index < count for index in chosen)
    middle = sum(chosen) / len(chosen)
    assert abs(middle - (count - 1) / 2) <= 0.5


def test_other_scopes_survey_nothing():
    assert crvq(codebook_scope="block").prepare_blocks(5) == []
