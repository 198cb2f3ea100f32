"""Methods in a rotated basis."""

import pytest
import torch

from crvq.config.rotation import RotationConfig
from crvq.methods import LinearShape, Method, create_method, method_params
from crvq.methods.budget import BudgetError, average_bits
from crvq.methods.rotated import RotatedMethod
from crvq.vq.hessian import Hessian
from crvq.weights import FormatError, unpack_weight
from tests.methods.linear_examples import QUICK, crvq, random_linear, relative_loss
from tests.methods.method_checks import check_result

KINDS = {
    "hadamard": RotationConfig(kind="hadamard"),
    "block": RotationConfig(kind="block_hadamard", block=8),
    "block, critical kept": RotationConfig(kind="block_hadamard", block=8, keep=0.1),
}


def rotated(name, rotation, **params):
    return RotatedMethod(create_method(name, method_params(name)(**params), seed=0), rotation)


@pytest.mark.parametrize("rotation", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("name", "params"), [("crvq", QUICK), ("gptq", {"bits": 3}), ("billm", {})]
)
def test_what_is_stored_counted_and_lost_is_true(name, params, rotation):
    (result,) = rotated(name, rotation, **params).quantize_block(0, [random_linear()])
    check_result(result)


def test_every_hook_of_a_method_reaches_it():
    own = {"fits_budgets", "quantizes", "revision", "uses_solver"}  # of the class or instance
    hooks = {name for name in vars(Method) if not name.startswith("_")} - own
    assert hooks <= vars(RotatedMethod).keys()


def test_an_outlier_channel_costs_a_grid_less_after_a_rotation():
    linear = random_linear(64, 64, hessian=Hessian(torch.eye(64)))
    linear.weight[:, 5] = 7.0
    (plain,) = create_method(
        "rtn", method_params("rtn")(bits=3, group_size=64), seed=0
    ).quantize_block(0, [linear])
    (turned,) = rotated("rtn", KINDS["hadamard"], bits=3, group_size=64).quantize_block(0, [linear])
    before = relative_loss(linear, plain.weight.dequantize())
    assert relative_loss(linear, turned.weight.dequantize()) < 0.5 * before


def test_linears_of_one_input_share_a_rotation():
    first = random_linear(kind="q")
    second = random_linear(kind="k", seed=1, hessian=first.hessian)
    other = random_linear(kind="o", seed=2)
    done = list(rotated("rtn", KINDS["block"]).quantize_block(0, [first, second, other]))
    signs = [one.weight.rotation.signs for one in done]
    assert torch.equal(signs[0], signs[1])
    assert not torch.equal(signs[0], signs[2])


def test_shared_codebooks_go_through_storage():
    method = RotatedMethod(crvq(codebook_scope="block"), KINDS["block"])
    for result in method.quantize_block(0, [random_linear(seed=s, kind=f"k{s}") for s in (0, 1)]):
        name, shared = result.weight.shared()
        assert name == "block-0"
        back = unpack_weight(result.weight.header(), result.weight.pack(), shared)
        assert torch.equal(back.dequantize(), result.weight.dequantize())


def test_a_budget_counts_the_rotation():
    shapes = [LinearShape("up", 256, 576)]
    method = rotated("gptq", KINDS["block, critical kept"])
    fitted = method.fit_budget(3.2, shapes)
    inner = create_method("gptq", fitted, seed=0)
    own = method._bits(shapes[0]) / (256 * 576)
    assert average_bits(shapes, lambda s: inner.count(fitted, s)) + own <= 3.2
    with pytest.raises(BudgetError) as error:
        method.fit_budget(0.01, shapes)
    assert method.fit_budget(error.value.nearest, shapes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"block": 7}, "rotated: 32 in blocks of 7"),
        ({"rotated": 64}, "rotated: 64 in blocks of 8"),
        ({"inner": {"format": "rotated"}}, "inner: format 'rotated' cannot be rotated"),
        ({"inner": {"format": "none"}}, "inner: format 'none' cannot be rotated"),
    ],
)
def test_a_wrong_header_is_refused(change, problem):
    (result,) = rotated("rtn", KINDS["block"]).quantize_block(0, [random_linear()])
    header = {**result.weight.header(), **change}
    with pytest.raises(FormatError, match=problem):
        unpack_weight(header, result.weight.pack(), {})


def test_settings_without_a_rotation_are_refused():
    with pytest.raises(ValueError, match="set rotation=block_hadamard"):
        RotationConfig(keep=0.1)
    with pytest.raises(ValueError, match=r"rotation\.block=48 is not a power of two: 32 or 64"):
        RotationConfig(kind="block_hadamard", block=48)
