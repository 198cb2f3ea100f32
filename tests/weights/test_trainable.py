"""Gradients of trainable weights against autograd through a plain decoding, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.grouped_codebooks import PatchLayout, store_patches
from crvq.vq.rotation import draw_rotation
from crvq.vq.uniform_grid import storable_steps
from crvq.weights.patch_vq import PatchWeight
from crvq.weights.rotated import RotatedWeight
from crvq.weights.trainable import EntryGradients, trainable
from crvq.weights.uniform import UniformWeight
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import quantize
from tests.methods.test_fairy2i import phases_weight
from tests.methods.test_gqsa import groups_weight
from tests.methods.test_qtip import trellis_weight
from tests.methods.test_two_sided import factors as factors_weight
from tests.methods.test_two_sided import signs as two_sided_weight
from tests.weights.test_additive import additive_weight
from tests.weights.test_column_vq import weight_of as column_vq_weight
from tests.weights.test_partial_binary import weight_of as partial_weight
from tests.weights.test_row_column_binary import weight_of as row_column_weight
from tests.weights.test_row_lookup import weight_of as row_lookup_weight
from tests.weights.test_split_binary import weight_of as split_weight
from tests.weights.test_ternary import weight_of as ternary_weight

CPU = torch.device("cpu")


def uniform_weight(reordered=True, seed=0, out_features=5, in_features=11, group_size=4):
    generator = torch.Generator().manual_seed(seed)
    groups = -(-in_features // group_size)
    shape = (out_features, in_features)
    return UniformWeight(
        code_bits=3,
        group_size=group_size,
        codes=torch.randint(0, 8, shape, generator=generator),
        steps=storable_steps(torch.rand(out_features, groups, generator=generator)),
        zeros=torch.randint(0, 8, (out_features, groups), generator=generator),
        order=torch.randperm(in_features, generator=generator) if reordered else None,
    )


def patch_weight(scaled=True, seed=0):
    """11 of 12 columns, strips of 8 and bands of 3 rows: padded columns, narrow strip and band."""
    generator = torch.Generator().manual_seed(seed)
    layout = PatchLayout(out_features=7, in_features=12, width=2, columns=8, rows=3)
    number = layout.strips * layout.bands
    entries, steps = store_patches(torch.randn(number, 4, 2, generator=generator))
    scale_codes = torch.randint(0, 16, (7, 3), generator=generator)
    return PatchWeight(
        in_features=11,
        layout=layout,
        codes=torch.randint(0, 4, (7, 6), generator=generator),
        entries=entries,
        steps=steps,
        scale_block=4 if scaled else None,
        scale_codes=scale_codes if scaled else None,
        scale_spans=torch.tensor([[-2.0, 0.25], [-1.0, 0.125]]) if scaled else None,
    )


def rotated_weight(inner):
    rotation = draw_rotation(
        torch.rand(inner.in_features, generator=torch.Generator().manual_seed(3)),
        4,
        0.2,
        torch.Generator().manual_seed(4),
    )
    return RotatedWeight(inner, rotation)


WEIGHTS = {
    "rotated additive": lambda: rotated_weight(additive_weight()),
    "rotated uniform": lambda: rotated_weight(uniform_weight()),
    "additive": lambda: additive_weight(),
    "additive, natural order, shared": lambda: additive_weight("none", codebook_set="together"),
    "additive, int8": lambda: additive_weight("critical_first", dtype="int8"),
    "uniform": uniform_weight,
    "uniform, natural order": lambda: uniform_weight(reordered=False),
    "patches": patch_weight,
    "split binary": split_weight,
    "split binary, plain": lambda: split_weight(splitting=False, centred=False),
    "partial binary": partial_weight,
    "patches without scales": lambda: patch_weight(scaled=False),
    "column vectors": column_vq_weight,
    "two-sided signs": two_sided_weight,
    "binary factors": factors_weight,
    "complex phases": phases_weight,
    "sparse groups": groups_weight,
    "trellis": trellis_weight,
    "column binary": lambda: quantize("ptq161", random_linear(6, 20), salient_ratio=0.3).weight,
    "entropy coded": lambda: quantize("cerwu", random_linear(24, 32), rate=3.0).weight,
    "masked grids": lambda: quantize("opq", random_linear(6, 20), sparsity=0.75).weight,
    "masked grids, two": lambda: quantize("ratio_opt", random_linear(6, 20)).weight,
    "row lookup": row_lookup_weight,
    "row-column binary": row_column_weight,
    "row-column binary, plain": lambda: row_column_weight(salient=(4,), splitting=False),
    "ternary": ternary_weight,
    "ternary, plain": lambda: ternary_weight(1, centred=False, reordered=False),
    "column vectors, plain": lambda: column_vq_weight(residual=False, outliers=0),
}
each_weight = pytest.mark.parametrize("name", WEIGHTS)


@each_weight
def test_dense_is_what_the_weight_decodes_to(name):
    weight = WEIGHTS[name]()
    made = trainable(weight, CPU)
    assert torch.equal(made.dense(made.parts), weight.dequantize())
    for part, value in made.parts.items():
        assert value.dtype == torch.float32
        assert torch.equal(made.stored(part, value), value), part
    again = made.quantized(made.parts)
    assert again.header() == weight.header()
    mine, theirs = again.pack(), weight.pack()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@each_weight
def test_pullback_is_the_derivative(name):
    """Against central differences of every single value, exact for what is linear in each."""
    made = trainable(WEIGHTS[name](), CPU)
    parts = {part: value.double() for part, value in made.parts.items()}
    gradient = torch.randn(made.dense(parts).shape, dtype=torch.float64)
    found = made.pullback(parts, gradient)
    assert found.keys() == parts.keys()
    for part, value in parts.items():
        expected = torch.empty_like(value)
        for place in range(value.numel()):
            sides = []
            for step in (1.0, -1.0):
                moved = value.clone()
                moved.view(-1)[place] += step
                sides.append((made.dense({**parts, part: moved}) * gradient).sum())
            expected.view(-1)[place] = (sides[0] - sides[1]) / 2
        torch.testing.assert_close(found[part], expected, msg=part)


@each_weight
def test_rounded_values_are_those_that_come_back(name):
    weight = WEIGHTS[name]()
    made = trainable(weight, CPU)
    moved = {part: value * 1.03 + 1e-3 for part, value in made.parts.items()}
    stored = {part: made.stored(part, value) for part, value in moved.items()}
    assert torch.equal(made.quantized(moved).dequantize(), made.dense(stored))
    assert torch.equal(made.quantized(stored).dequantize(), made.dense(stored))
    assert made.quantized(moved).bits() == weight.bits()


@each_weight
def test_what_storage_cannot_hold_is_refused(name):
    made = trainable(WEIGHTS[name](), CPU)
    for part, value in made.parts.items():
        broken = value.clone()
        broken.view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            made.stored(part, broken)


@settings(max_examples=40, deadline=None)
@given(
    vectors=st.integers(1, 3000),
    entries=st.integers(1, 40),
    d=st.integers(1, 5),
    seed=st.integers(0, 99),
    skewed=st.booleans(),
)
def test_entry_gradients_add_up_by_entry(vectors, entries, d, seed, skewed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, entries, (vectors,), generator=generator)
    if skewed:  # one entry has most uses, and many none
        codes[torch.rand(vectors, generator=generator) < 0.9] = entries - 1
    gradients = torch.randn(vectors, d, generator=generator, dtype=torch.float64)
    expected = torch.zeros(entries, d, dtype=torch.float64).index_add_(0, codes, gradients)
    torch.testing.assert_close(EntryGradients(codes, entries)(gradients), expected)
