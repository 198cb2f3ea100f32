"""Entropies of every format's codes, next to a Counter."""

from collections import Counter
from math import log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.methods import LinearInput, method_names
from crvq.weights.entropy import code_entropy_bits, mask_entropy_bits, order0_bits
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import make


def counted_bits(symbols):
    counts = Counter(symbols)
    return sum(-count * log2(count / len(symbols)) for count in counts.values())


@given(st.lists(st.integers(0, 9), max_size=40))
def test_it_is_what_a_counter_says(symbols):
    assert code_entropy_bits(torch.tensor(symbols, dtype=torch.int64)) == pytest.approx(
        counted_bits(symbols), abs=1e-9
    )
    mask = [symbol > 4 for symbol in symbols]
    assert mask_entropy_bits(torch.tensor(mask, dtype=torch.bool)) == pytest.approx(
        counted_bits(mask), abs=1e-9
    )


def test_sources_have_frequencies_of_their_own():
    counts = torch.tensor([[4, 0], [0, 4], [2, 2]])
    assert order0_bits(counts) == pytest.approx(4.0)
    assert order0_bits(counts.sum(0)) == pytest.approx(12.0)


def additive(weight):
    return [codes.flatten().tolist() for codes in weight.code.codes]


def patches(weight):
    layout = weight.layout
    sources = {}
    for row in range(layout.out_features):
        for vector in range(layout.in_features // layout.width):
            patch = vector * layout.width // layout.columns, row // layout.rows
            sources.setdefault(patch, []).append(int(weight.codes[row, vector]))
    return list(sources.values())


def uniform(weight):
    return [weight.codes.flatten().tolist()]


def split_binary(weight):
    signs, second, groups = [], [], []
    for row in range(weight.out_features):
        for column in range(weight.in_features):
            signs.append(bool(weight.signs[row, column]))
            if weight.salient[column]:
                second.append(bool(weight.second_signs[row, column]))
            else:
                groups.append(bool(weight.sparse[row, column]))
    return [signs, second, groups]


def partial_binary(weight):
    mask, signs, codes = [], [], []
    for row in range(weight.out_features):
        for column in range(weight.in_features):
            salient = bool(weight.salient[row, column])
            mask.append(salient)
            if salient:
                codes.append(int(weight.codes[row, column]))
            else:
                signs.append(bool(weight.signs[row, column]))
    return [mask, signs, codes]


def row_column(weight):
    second = weight.second_signs[:, weight.salient]
    sources = (weight.signs, second, weight.groups)
    return [[bool(one) for row in source for one in row] for source in sources]


def ternary(weight):
    return [[int(trit) for row in plane for trit in row] for plane in weight.trits]


def column_vq(weight):
    return [[int(code) for row in weight.codes for code in row]]


def trellis(weight):
    return [[int(code) for code in weight.codes.flatten()]]


def two_sided(weight):
    return [[bool(one) for one in weight.signs.flatten()]]


def factors(weight):
    return [[bool(one) for one in part.flatten()] for part in (weight.left, weight.right)]


def phases(weight):
    return [[int(code) for code in stage.flatten()] for stage in weight.codes]


SOURCES = {
    "crvq": additive,
    "aqlm": additive,
    "gptvq": patches,
    "gptq": uniform,
    "rtn": uniform,
    "billm": split_binary,
    "pb_llm": partial_binary,
    "vptq": column_vq,
    "fairy2i": phases,
    "gqsa": column_vq,
    "nanoquant": factors,
    "obc": uniform,
    "qtip": trellis,
    "onebit": two_sided,
    "omniquant": uniform,
    "squeezellm": column_vq,
    "arb_llm": row_column,
    "pt2_llm": ternary,
    "ptqtp": ternary,
}
QUICK = {
    "crvq": {"codebook_bits": 4, "extended_bits": 3, "critical_ratio": 0.25},
    "aqlm": {"codebook_bits": 4, "codebooks": 2},
    "gptvq": {"codebook_bits": 3, "weights_per_codebook": 128, "columns": 16},
    "billm": {"block_size": 16},
    "arb_llm": {"block_size": 16},
    "nanoquant": {"bits": 2.0, "iterations": 5},
    "omniquant": {"steps": 2},
    "vptq": {"codebook_bits": 3},
}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_methods_codes(name):
    linear: LinearInput = random_linear()
    (result,) = make(name, **QUICK.get(name, {})).quantize_block(0, [linear])
    expected = sum(counted_bits(source) for source in SOURCES[name](result.weight))
    found = result.weight.entropy_bits()
    assert found == pytest.approx(expected)
    assert 0 < found <= result.weight.bits().codes * (1 + 1e-9)


def test_no_method_is_left_out():
    assert set(method_names()) - {"full_precision"} <= set(SOURCES)
