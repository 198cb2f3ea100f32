import pytest

from crvq.errors import ConfigError
from crvq.methods import LinearShape
from crvq.methods.budget import average_bits
from crvq.weights import BitCount
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import make, quantize

# A small Llama's block, three times.
SHAPES = [
    LinearShape("attn.q", 576, 576),
    LinearShape("attn.k", 192, 576),
    LinearShape("mlp.up", 1536, 576),
    LinearShape("mlp.down", 576, 1536),
] * 3

REACHABLE = [
    ("rtn", 2),
    ("rtn", 3),
    ("gptq", 2.0),
    ("gptq", 4),
    ("aqlm", 0.5),
    ("aqlm", 1),
    ("aqlm", 1.5),
    ("aqlm", 3),
    ("gptvq", 0.5),
    ("gptvq", 1),
    ("gptvq", 2),
    ("gptvq", 4),
    ("billm", 1.6),
    ("billm", 2),
    ("billm", 3),
    ("pb_llm", 1),
    ("pb_llm", 1.6),
    ("pb_llm", 2),
    ("vptq", 0.5),
    ("vptq", 1),
    ("vptq", 1.6),
    ("vptq", 2),
    ("vptq", 3),
    ("fairy2i", 1.1),
    ("fairy2i", 2.1),
    ("gqsa", 1),
    ("gqsa", 3),
    ("qtip", 2),
    ("nanoquant", 1),
    ("nanoquant", 2),
    ("obc", 2),
    ("onebit", 1.2),
    ("omniquant", 2),
    ("squeezellm", 2),
    ("squeezellm", 2.5),
    ("squeezellm", 4),
    ("arb_llm", 1.6),
    ("arb_llm", 2),
    ("arb_llm", 3),
    ("pt2_llm", 2),
    ("pt2_llm", 3),
    ("ptqtp", 1.6),
    ("ptqtp", 3.5),
]
OUT_OF_REACH = [
    ("rtn", 0.5),
    ("gptq", 0.5),
    ("gptq", 16),
    ("aqlm", 0.1),
    ("gptvq", 12),
    ("billm", 1),
    ("pt2_llm", 1),
    ("squeezellm", 1),
    ("arb_llm", 0.8),
    ("ptqtp", 1),
]


@pytest.mark.parametrize(("name", "bits"), REACHABLE)
def test_a_budget_is_met_everything_counted(name, bits):
    method = make(name)
    assert method.fits_budgets
    params = method.fit_budget(bits, SHAPES)
    total = sum(method.count(params, shape).total for shape in SHAPES)
    average = total / sum(shape.out_features * shape.in_features for shape in SHAPES)
    assert bits * 0.8 <= average <= bits * 1.03


@pytest.mark.parametrize(("name", "bits"), OUT_OF_REACH)
def test_a_budget_out_of_reach_names_one_that_is_not(name, bits):
    with pytest.raises(ConfigError, match=f"budget.bits={bits:g}") as error:
        make(name).fit_budget(bits, SHAPES)
    nearest = float(str(error.value).split("budget.bits=")[2].split(",")[0])
    assert make(name).fit_budget(nearest, SHAPES)


FEW_LAYOUTS = {"fairy2i", "onebit"}


@pytest.mark.parametrize("name", sorted({name for name, _ in REACHABLE} - FEW_LAYOUTS))
def test_more_budget_never_buys_fewer_bits(name):
    method = make(name)
    bits = [
        sum(method.count(method.fit_budget(budget, SHAPES), shape).total for shape in SHAPES)
        for budget in (2, 2.5, 3, 4)
    ]
    assert bits == sorted(bits)
    assert bits[0] < bits[-1]


def test_what_a_budget_does_not_decide_stays_as_asked():
    params = make("gptq", act_order=True, damping=0.5, bits=2).fit_budget(4, SHAPES)
    assert (params.act_order, params.damping) == (True, 0.5)
    assert params.bits > 2


def test_the_average_is_over_weights_not_over_linears():
    shapes = [LinearShape("a", 1, 10), LinearShape("b", 3, 10)]
    counted = {1: BitCount(codes=10.0), 3: BitCount(codes=90.0)}
    assert average_bits(shapes, lambda shape: counted[shape.out_features]) == 2.5


def test_a_model_quantized_to_a_budget_weighs_it():
    linears = [random_linear(64, 96), random_linear(48, 64)]
    shapes = [LinearShape(x.kind, *x.weight.shape) for x in linears]
    params = make("gptq").fit_budget(3.5, shapes)
    results = [quantize("gptq", linear, **params.model_dump()) for linear in linears]
    total = sum(result.weight.bits().total for result in results)
    assert 3.5 * 0.8 <= total / (64 * 96 + 48 * 64) <= 3.5 * 1.03
