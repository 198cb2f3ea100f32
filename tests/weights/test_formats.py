"""What follows from a format's declared fields, for every registered format."""

import json
from dataclasses import replace

import pytest
import torch

from crvq.weights import FormatError, unpack_weight
from crvq.weights.bitpack import pack_bits, unpack_rows
from crvq.weights.fields import Field, index_bits
from crvq.weights.quantized import FORMATS
from crvq.weights.trainable import trainable
from tests.weights.test_additive import additive_weight
from tests.weights.test_trainable import WEIGHTS

EXAMPLES = {name: make for name, make in WEIGHTS.items() if "shared" not in name}
each_example = pytest.mark.parametrize("name", EXAMPLES)


def test_every_format_has_an_example():
    assert {make().format for make in EXAMPLES.values()} == set(FORMATS)


def former_header(weight):
    """As format version 1 of checkpoints wrote it: some sizes are left to the tensors."""
    header = weight.header()
    if weight.format == "additive":
        bits = [index_bits(entries) for entries in header.pop("entries")]
        positions = header["groups"][0] * header.pop("group_size")
        header.pop("codebook_dtype")
        return {**header, "code_bits": bits, "positions": positions}
    for added in {
        "patch_vq": ["entries"],
        "split_binary": ["salient", "row_scales", "row_centres"],
    }.get(weight.format, []):
        header.pop(added)
    return header


@each_example
@pytest.mark.parametrize("version", [1, 2])
def test_bits_equal_bytes_and_the_weight_comes_back(name, version):
    weight = EXAMPLES[name]()
    header = former_header(weight) if version == 1 else weight.header()
    tensors = weight.pack()
    restored = unpack_weight(json.loads(json.dumps(header)), tensors, {})
    assert torch.equal(restored.dequantize(), weight.dequantize())
    assert restored.header() == weight.header()
    stored = 8 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert weight.bits().total == restored.bits().total == stored
    assert type(weight).count(weight.sizes()) == weight.bits(), "bits of shapes alone"


@each_example
def test_the_models_shape_is_checked(name):
    weight = EXAMPLES[name]()
    out_features, in_features = weight.dequantize().shape
    unpack_weight(weight.header(), weight.pack(), {}, (out_features, in_features))
    with pytest.raises(FormatError, match=f"the model has {in_features} x {out_features + 1}"):
        unpack_weight(weight.header(), weight.pack(), {}, (in_features, out_features + 1))


@each_example
def test_missing_extra_and_misshapen_tensors_are_named(name):
    weight = EXAMPLES[name]()
    tensors = weight.pack()
    for field, tensor in tensors.items():
        without = {other: one for other, one in tensors.items() if other != field}
        for wrong in (
            without,
            {**tensors, field: tensor[:-1]},
            {**tensors, field: tensor.double()},
        ):
            with pytest.raises(FormatError) as error:
                unpack_weight(weight.header(), wrong, {})
            assert error.value.field in (field, "header", "entries", "code_bits")
    with pytest.raises(FormatError, match="more: the header says nothing"):
        unpack_weight(weight.header(), {**tensors, "more": torch.zeros(1)}, {})


@each_example
def test_each_size_of_the_header_is_checked(name):
    weight = EXAMPLES[name]()
    header, tensors = weight.header(), weight.pack()
    for size in header:
        for wrong in (-1, 2**40, "3", None, True, 0.5, [], {}):
            if wrong is None and size in ("codebook_set", "scale_block"):
                continue
            if (size, wrong) in (("codebook_share", 0.5), ("codebook_set", "3")):
                continue
            if wrong is True and isinstance(header[size], bool):
                continue
            with pytest.raises(FormatError):
                unpack_weight({**header, size: wrong}, tensors, {})
        if (weight.format, size) in (("patch_vq", "entries"), ("split_binary", "salient")):
            continue  # left out by format version 1
        with pytest.raises(FormatError):
            unpack_weight({k: v for k, v in header.items() if k != size}, tensors, {})


def test_no_memory_is_claimed_for_weights_that_are_not_stored():
    weight = additive_weight("none", entries=(1,), out_features=4, in_features=8)
    huge = {**weight.header(), "in_features": 2**30, "groups": [2**28]}
    with pytest.raises(FormatError, match="do not fit into"):
        unpack_weight(huge, weight.pack(), {})


def test_an_order_must_be_a_permutation():
    weight = WEIGHTS["uniform"]()
    tensors = weight.pack()
    zeros = torch.zeros_like(tensors["order"])
    with pytest.raises(FormatError, match="order: holds a number twice"):
        unpack_weight(weight.header(), {**tensors, "order": zeros}, {})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@each_example
def test_numbers_must_be_finite(name, bad):
    weight = EXAMPLES[name]()
    tensors = weight.pack()
    for field, tensor in tensors.items():
        if tensor.dtype.is_floating_point:
            broken = tensor.clone()
            broken.view(-1)[-1] = bad
            with pytest.raises(FormatError, match=f"{field}: holds NaN or infinity"):
                unpack_weight(weight.header(), {**tensors, field: broken}, {})


def test_codes_must_have_an_entry():
    weight = additive_weight(entries=(12, 8, 3))
    tensors = weight.pack()
    with pytest.raises(FormatError, match=r"codes\.0: holds 15; the largest is 11"):
        unpack_weight(
            weight.header(), {**tensors, "codes.0": torch.full_like(tensors["codes.0"], 255)}, {}
        )


@pytest.mark.parametrize(("width", "columns"), [(0, 5), (1, 7), (3, 5), (4, 4), (8, 3), (11, 9)])
def test_rows_of_packed_codes_are_addressable(width, columns):
    codes = torch.randint(0, 1 << width, (6, columns), generator=torch.Generator().manual_seed(1))
    packed = pack_bits(codes, width)
    for start in range(6):
        for stop in range(start, 7):
            rows = slice(start, stop)
            assert torch.equal(unpack_rows(packed, width, columns, rows), codes[rows])


def test_a_value_of_another_shape_is_not_packed():
    with pytest.raises(ValueError, match=r"codes has shape \(2,\) instead of \(3,\)"):
        Field("codes", "codes", (3,), 2).pack(torch.zeros(2))


def recoded(weight):
    """The same weight with its first row's codes (or signs) replaced by the last row's."""
    if hasattr(weight, "inner"):
        return replace(weight, inner=recoded(weight.inner))
    for field in ("codes", "signs", "left"):
        if hasattr(weight, field):
            getattr(weight, field)[0] = getattr(weight, field)[-1]
            return weight
    if hasattr(weight, "trits"):
        weight.trits[:, 0] = weight.trits[:, -1]
        return weight
    weight.code.codes[0][0] = weight.code.codes[0][-1]
    return weight


@pytest.mark.parametrize("name", WEIGHTS)
def test_codes_may_change_while_a_weight_trains(name):
    """A snapshot holds codes and numbers; loaded again, decoding and gradients are its own."""
    made = trainable(WEIGHTS[name](), torch.device("cpu"))
    first = made.snapshot()
    assert torch.equal(first.dequantize(), WEIGHTS[name]().dequantize())
    changed = recoded(WEIGHTS[name]())
    made.load(changed)
    fresh = trainable(changed, torch.device("cpu"))
    assert torch.equal(made.dense(made.parts), changed.dequantize())
    gradient = torch.ones_like(changed.dequantize())
    mine, expected = (one.pullback(one.parts, gradient) for one in (made, fresh))
    assert all(torch.equal(mine[part], expected[part]) for part in expected)
    assert torch.equal(made.snapshot().dequantize(), changed.dequantize())
    made.load(first)
    assert torch.equal(made.dense(made.parts), first.dequantize())
