import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.vq.additive_code import AdditiveCode
from crvq.vq.storage import load_codebook, store_codebook
from crvq.weights import AdditiveWeight, FormatError, QuantizedWeight, unpack_weight
from crvq.weights.fields import Field, Sizes, index_bits
from crvq.weights.quantized import FORMATS

ORDERS = ["none", "critical_first", "full"]


def additive_weight(
    order="full",
    *,
    out_features=5,
    in_features=10,
    d=4,
    entries=(16, 8, 3),
    critical=1,
    dtype="float16",
    seed=0,
    codebook_set=None,
    share=1.0,
):
    generator = torch.Generator().manual_seed(seed)
    groups = math.ceil(in_features / d)
    coverage = [groups] + [critical] * (len(entries) - 1)
    codes = [
        torch.randint(0, size, (out_features, covered), generator=generator)
        for size, covered in zip(entries, coverage, strict=True)
    ]
    books = [torch.randn(size, d, generator=generator) for size in entries]
    permutation, reordered = torch.arange(groups * d), 0
    if order == "full":
        permutation = torch.randperm(groups * d, generator=generator)
        reordered = groups * d
    elif order == "critical_first":
        reordered = critical * d
        first = torch.randperm(groups * d, generator=generator)[:reordered]
        rest = [p for p in range(groups * d) if p not in set(first.tolist())]
        permutation = torch.cat([first, torch.tensor(rest, dtype=torch.int64)])
    return AdditiveWeight(
        out_features=out_features,
        in_features=in_features,
        code=AdditiveCode(codes, torch.randn(out_features, generator=generator).half().float()),
        codebooks=[store_codebook(book, dtype) for book in books],
        order=permutation,
        reordered=reordered,
        codebook_set=codebook_set,
        codebook_share=share,
    )


def decoded_one_by_one(weight):
    """Ŵ[o, π(g d + a)] = s_o Σ_k C_k[B_k[o, g], a], entry by entry."""
    books = [load_codebook(parts).tolist() for parts in weight.codebooks]
    d = weight.group_size
    result = torch.zeros(weight.out_features, len(weight.order))
    for row in range(weight.out_features):
        for group in range(len(weight.order) // d):
            for place in range(d):
                value = sum(
                    book[int(codes[row, group])][place]
                    for book, codes in zip(books, weight.code.codes, strict=True)
                    if group < codes.shape[1]
                )
                channel = int(weight.order[group * d + place])
                result[row, channel] = float(weight.code.scales[row]) * value
    return result[:, : weight.in_features]


def round_trip(weight):
    together = weight.shared()
    return unpack_weight(weight.header(), weight.pack(), together[1] if together else {})


def tensor_bytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_decoding_is_the_formula(order, dtype):
    weight = additive_weight(order, dtype=dtype)
    torch.testing.assert_close(weight.dequantize(), decoded_one_by_one(weight))


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from(["float16", "int8"]),
    out_features=st.integers(1, 7),
    in_features=st.integers(1, 19),
    d=st.integers(1, 8),
    entries=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    critical=st.integers(0, 3),
    shared=st.booleans(),
)
def test_a_stored_weight_comes_back_bit_for_bit_and_weighs_its_bits(
    order, dtype, out_features, in_features, d, entries, critical, shared
):
    weight = additive_weight(
        order,
        dtype=dtype,
        out_features=out_features,
        in_features=in_features,
        d=d,
        entries=entries,
        critical=min(critical, math.ceil(in_features / d)),
        codebook_set="everyone" if shared else None,
    )
    restored = round_trip(weight)
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert torch.equal(restored.order, weight.order)
    for mine, theirs in zip(restored.code.codes, weight.code.codes, strict=True):
        assert torch.equal(mine, theirs)
    assert restored.header() == weight.header()
    stored = tensor_bytes(weight.pack())
    if shared:
        stored += tensor_bytes(weight.shared()[1])
    assert weight.bits().total == 8 * stored
    assert restored.bits() == weight.bits()


def test_shares_of_a_set_add_up_to_its_bytes():
    alone = tensor_bytes(additive_weight(codebook_set="set").shared()[1])
    shares = [0.5, 0.3, 0.2]
    weights = [additive_weight(codebook_set="set", share=share) for share in shares]
    assert sum(w.bits().codebooks for w in weights) == pytest.approx(8 * alone)
    assert not any(name.startswith("codebooks") for w in weights for name in w.pack())


def test_bits_follow_the_papers_formula():
    """(i/d)·o·e + (m-1)·G_c·o·e + Σ 2^e·d·16 + o·16 + i·⌈log2 i⌉, all whole bytes here."""
    o, i, d, e, m, critical = 32, 64, 8, 8, 4, 2
    weight = additive_weight(
        out_features=o, in_features=i, d=d, entries=(2**e,) * m, critical=critical
    )
    bits = weight.bits()
    assert bits.codes == (i / d) * o * e + (m - 1) * critical * o * e
    assert bits.codebooks == m * 2**e * d * 16
    assert bits.scales == o * 16
    assert bits.permutation == i * math.ceil(math.log2(i))
    assert bits.total == bits.codes + bits.codebooks + bits.scales + bits.permutation


@pytest.mark.parametrize("values", range(1, 70))
def test_index_bits_is_the_least_that_tells_values_apart(values):
    width = index_bits(values)
    assert 2**width >= values
    assert width == 0 or 2 ** (width - 1) < values


def test_an_unknown_format_says_what_can_be_read():
    with pytest.raises(FormatError, match=r"'quinary'.*additive"):
        unpack_weight({"format": "quinary"}, {}, {})


def test_a_format_of_ones_own_is_found_by_its_name():
    class Raw(QuantizedWeight):
        format = "raw-for-this-test"
        header_type = Sizes

        def __init__(self, weight):
            self.weight = weight

        def dequantize(self):
            return self.weight

        @classmethod
        def stored_fields(cls, sizes):
            shape = (sizes.out_features, sizes.in_features)
            return [Field("weight", "other", shape, dtype=torch.float32)]

        def sizes(self):
            out_features, in_features = self.weight.shape
            return Sizes(out_features=out_features, in_features=in_features)

        def values(self):
            return {"weight": self.weight}

        @classmethod
        def from_values(cls, sizes, values):
            return cls(values["weight"])

    class Same(Raw):
        pass

    weight = Raw(torch.ones(2, 3))
    assert torch.equal(round_trip(weight).dequantize(), weight.weight)
    assert weight.bits().other == weight.bits().total == 6 * 32
    assert type(round_trip(Same(torch.ones(2, 3)))) is Raw, "a subclass took its parent's name"
    FORMATS.remove("raw-for-this-test")
