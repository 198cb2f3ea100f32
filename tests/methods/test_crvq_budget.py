import pytest

from crvq.methods import LinearShape
from crvq.methods.crvq_budget import crvq_bits, crvq_layouts
from tests.methods.linear_examples import crvq, random_linear

SHAPES = [
    LinearShape("attn.q", 576, 576),
    LinearShape("attn.k", 192, 576),
    LinearShape("mlp.down", 576, 1536),
] * 3


@pytest.mark.parametrize("ratio", [0.0, 0.2])
@pytest.mark.parametrize("reorder", ["stratified", "sorted", "critical_first"])
@pytest.mark.parametrize(("shape", "d"), [((24, 32), 4), ((20, 30), 8), ((2, 8), 4)], ids=str)
def test_planned_bits_are_those_of_the_result(shape, d, reorder, ratio):
    linear = random_linear(*shape)
    method = crvq(
        group_size=d, critical_ratio=ratio, reorder=reorder, max_rounds=0, codebook_bits=3,
        extended_bits=2,
    )  # fmt: skip
    (result,) = method.quantize_block(0, [linear])
    of_shape = LinearShape(linear.kind, *shape)
    assert crvq_bits(method.params, of_shape, [of_shape]) == result.weight.bits()


def test_linears_that_share_codebooks_pay_for_one_set_together():
    for scope, sets in (("block", 3), ("model", 3)):
        params = crvq(codebook_scope=scope, critical_ratio=0.1).params
        alone = crvq(critical_ratio=0.1).params
        paid = sum(crvq_bits(params, shape, SHAPES).codebooks for shape in SHAPES)
        one_set = crvq_bits(alone, SHAPES[0], SHAPES).codebooks
        assert paid == pytest.approx(sets * one_set)


@pytest.mark.parametrize("bits", [0.5, 1, 1.5, 2, 3])
def test_budgets_are_met_and_the_critical_ratio_stays(bits):
    method = crvq(critical_ratio=0.02, codebook_scope="model")
    params = method.fit_budget(bits, SHAPES)
    total = sum(crvq_bits(params, shape, SHAPES).total for shape in SHAPES)
    average = total / sum(shape.out_features * shape.in_features for shape in SHAPES)
    assert bits * 0.8 <= average <= bits * 1.03
    assert (params.critical_ratio, params.codebook_scope) == (0.02, "model")


SMALL_MODEL = [
    LinearShape(kind, *shape)
    for kind, *shape in [
        ("q", 576, 576), ("k", 192, 576), ("v", 192, 576), ("o", 576, 576),
        ("gate", 1536, 576), ("up", 1536, 576), ("down", 576, 1536),
    ]
]  # fmt: skip


def test_a_tight_budget_goes_to_codes_before_codebooks():
    """At 1 bit codebooks of 16 bits would leave room for fewer bits per index than those of 8."""
    asked = crvq(critical_ratio=0.02, codebook_bits=8, extended_bits=8)
    params = asked.fit_budget(1, SMALL_MODEL)
    assert (params.codebook_dtype, params.codebook_scope) != ("float16", "linear")
    wide = asked.params.model_copy(
        update={
            "group_size": params.group_size,
            "codebook_bits": params.codebook_bits,
            "extended_bits": params.extended_bits,
        }
    )
    weights = sum(shape.out_features * shape.in_features for shape in SMALL_MODEL)
    total = sum(crvq_bits(wide, shape, SMALL_MODEL).total for shape in SMALL_MODEL)
    assert total / weights > 1.03  # as asked, these codes would not have fitted


def test_codebooks_stay_as_asked_where_there_is_room():
    large = [LinearShape("mlp.up", 4096, 4096)]
    params = crvq(critical_ratio=0.02).fit_budget(2, large)
    assert (params.codebook_dtype, params.codebook_scope) == ("float16", "linear")


def test_layouts_offer_each_way_to_keep_codebooks_once():
    asked = crvq(codebook_scope="model", codebook_dtype="int8").params
    layouts = [repr(layout) for layout in crvq_layouts(asked)]
    assert len(layouts) == len(set(layouts))
    assert all("scope='model'" in layout for layout in layouts)
