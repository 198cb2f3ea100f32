import pytest
import torch

from crvq.weights import FormatError, unpack_weight
from crvq.weights.column_vq import ColumnVqSizes, ColumnVqWeight


def weight_of(out=7, columns=9, residual=True, outliers=2, seed=0):
    """Random codes and codebooks; 7 rows of vectors of 4 and outlier vectors of 2: padded rows."""
    draw = torch.Generator().manual_seed(seed)
    outlier = torch.zeros(columns, dtype=torch.bool)
    outlier[torch.randperm(columns, generator=draw)[:outliers]] = True
    main = columns - outliers
    weight = ColumnVqWeight(
        out_features=out,
        outlier=outlier,
        codes=torch.randint(0, 5, (-(-out // 4), main), generator=draw),
        codebook=torch.randn(5, 4, generator=draw).half().float(),
    )
    if residual:
        weight.residual_codes = torch.randint(0, 3, (-(-out // 4), main), generator=draw)
        weight.residual_codebook = torch.randn(3, 4, generator=draw).half().float()
    if outliers:
        weight.outlier_codes = torch.randint(0, 6, (-(-out // 2), outliers), generator=draw)
        weight.outlier_codebook = torch.randn(6, 2, generator=draw).half().float()
    return weight


@pytest.mark.parametrize("outliers", [0, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_each_weight_decodes_by_its_definition(residual, outliers):
    weight = weight_of(residual=residual, outliers=outliers)
    values, special = weight.dequantize(), weight.outlier.nonzero()[:, 0].tolist()
    plain = (~weight.outlier).nonzero()[:, 0].tolist()
    for row in range(7):
        for column in range(9):
            if column in special:
                code = weight.outlier_codes[row // 2, special.index(column)]
                expected = float(weight.outlier_codebook[code, row % 2])
            else:
                place = row // 4, plain.index(column)
                expected = float(weight.codebook[weight.codes[place], row % 4])
                if residual:
                    code = weight.residual_codes[place]
                    expected += float(weight.residual_codebook[code, row % 4])
            assert float(values[row, column]) == pytest.approx(expected, abs=1e-6)


def test_bits_by_hand():
    """2 x 7 codes of 3 and 2 bits, 4 x 2 of 3 bits: whole bytes each; float16 codebooks."""
    bits = weight_of().bits()
    assert bits.codes == 8 * (6 + 4 + 3)
    assert bits.codebooks == 16 * (5 * 4 + 3 * 4 + 6 * 2)
    assert (bits.other, bits.scales, bits.permutation) == (16, 0, 0)
    assert weight_of().bits_as_published() == bits.codes


def test_a_bitmap_that_contradicts_the_header_is_refused():
    weight = weight_of()
    tensors = weight.pack()
    wrong = {**tensors, "outlier": torch.zeros_like(tensors["outlier"])}
    with pytest.raises(FormatError, match="marks 0 columns, header: 2"):
        unpack_weight(weight.header(), wrong, {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outliers": 10}, "outliers=10 of 9"),
        ({"outlier_entries": 0}, "outlier_entries=0 for 2 outliers"),
        ({"entries": 0}, "entries=0 for 9 columns"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changed, message):
    with pytest.raises(FormatError, match=message):
        ColumnVqSizes.from_header({**weight_of().sizes().model_dump(), **changed})
