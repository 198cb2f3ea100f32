import itertools

import pytest
import torch

from crvq.weights import FormatError, unpack_weight
from crvq.weights.row_column_binary import RowColumnBinaryWeight


def weight_of(out=5, columns=11, block=4, salient=(1, 2, 9), splitting=True, seed=0):
    """Random parts; what is not stored is zero, as the quantizer leaves it."""
    draw = torch.Generator().manual_seed(seed)
    shape, blocks, groups = (out, columns), -(-columns // block), 2 if splitting else 1
    chosen = torch.zeros(columns, dtype=torch.bool)
    chosen[list(salient)] = True
    signs, second, marked = (torch.rand(shape, generator=draw) < 0.5 for _ in range(3))
    rows = torch.rand(out, blocks, 2, 2, groups, generator=draw).half().float()
    rows[:, :, 0, 1] = 0
    for number in range(blocks):
        own = chosen[number * block : (number + 1) * block]
        rows[:, number, 0] *= not bool(own.all())
        rows[:, number, 1] *= bool(own.any())
    factors = torch.rand(columns, 2, groups, generator=draw).half().float()
    factors[~chosen, 1] = 0
    return RowColumnBinaryWeight(
        block=block,
        salient=chosen,
        signs=signs,
        second_signs=second & chosen,
        groups=marked if splitting else None,
        rows=rows,
        columns=factors,
    )


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("salient", [(), (1, 2, 9), (0, 1, 2, 3)])
def test_each_weight_decodes_by_its_definition_and_comes_back(salient, splitting):
    weight = weight_of(salient=salient, splitting=splitting)
    values = weight.dequantize()
    for row, column in itertools.product(range(5), range(11)):
        group = int(splitting and weight.groups[row, column])
        kind = int(column in salient)
        expected = 0.0
        for order, signs in enumerate((weight.signs, weight.second_signs)[: kind + 1]):
            alpha = float(weight.rows[row, column // 4, kind, order, group])
            sign = 1 if signs[row, column] else -1
            expected += sign * alpha * float(weight.columns[column, order, group])
        assert float(values[row, column]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    restored = unpack_weight(weight.header(), weight.pack(), {})
    assert torch.equal(restored.dequantize(), values)


def test_bits_by_hand():
    """Blocks of 4: two with salient columns (3 pairs of row scales), one without (1 pair)."""
    weight = weight_of(salient=(1, 2, 9))
    bits = weight.bits()
    assert bits.codes == 56 + 16 + 56
    row_scales = 5 * 2 * (3 + 1 + 3)
    column_scales = 2 * (11 + 3)
    assert bits.scales == 16 * (row_scales + column_scales)
    assert bits.other == 16
    assert weight.bits_as_published() == 5 * (11 + 3)


def test_a_bitmap_that_contradicts_the_header_is_refused():
    weight = weight_of()
    tensors = weight.pack()
    wrong = {**tensors, "salient": torch.zeros_like(tensors["salient"])}
    with pytest.raises(FormatError, match="marks 0 columns, header: 3"):
        unpack_weight(weight.header(), wrong, {})
