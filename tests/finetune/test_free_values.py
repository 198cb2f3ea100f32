import pytest
import torch
from torch.func import functional_call

from crvq.finetune.free_values import FreeValues, QuantizedSlot, norm_parameters
from crvq.models.blocks import find_slots
from crvq.vq.storage import load_codebook
from tests.architectures import build, tokens
from tests.finetune.conftest import quantized

ALL = ("codebooks", "scales", "norms")


def decoded(weight, values, prefix, books_prefix=None):
    """The weight by plain indexing, for autograd to go through."""
    books = [values[f"{books_prefix or prefix}/codebooks.{k}"] for k in range(2)]
    coded = books[0][weight.code.codes[0]]
    extended = books[1][weight.code.codes[1]]
    coded = torch.cat([coded[:, :2] + extended, coded[:, 2:]], 1).flatten(1)
    coded = coded * values[f"{prefix}/scales"][:, None]
    return coded[:, weight.order.argsort()]


def loss_of(outputs):
    return (outputs * torch.linspace(-1, 2, outputs.numel()).view_as(outputs)).tanh().sum()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_gradients_are_autograds(toy, shared, relative):
    block, linears = toy(shared=shared)
    free = FreeValues(linears, norm_parameters(block), ALL, relative)
    hidden = torch.randn(4, 6)
    with free.gradients():
        for part in hidden.split(1):  # two passes and more add up
            loss_of(block(part)).backward()

    values = {name: leaf.value.requires_grad_() for name, leaf in free.leaves.items()}
    books = "sets/both" if shared else None
    parameters = {f"{x.name}.weight": decoded(x.weight, values, x.name, books) for x in linears}
    parameters |= {name: values[f"norms/{name}"] for name in norm_parameters(block)}
    total = sum(loss_of(functional_call(block, parameters, (part,))) for part in hidden.split(1))
    total.backward()
    assert values.keys() == free.leaves.keys()
    for name, value in values.items():
        leaf = free.leaves[name]
        torch.testing.assert_close(leaf.free.grad, value.grad * leaf.unit, msg=name)


def test_nothing_of_the_model_is_left_trainable(toy):
    block, linears = toy()
    free = FreeValues(linears, norm_parameters(block), ALL, True)

    def interrupted():
        with free.gradients():
            block(torch.randn(2, 6)).sum().backward()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    for parameter in block.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_values_go_there_and_back_bit_for_bit(toy):
    block, linears = toy(dtype="int8")
    before = {name: value.clone() for name, value in block.state_dict().items()}
    free = FreeValues(linears, norm_parameters(block), ALL, relative=True)
    units = {leaf.unit for leaf in free.leaves.values()}
    assert len(units) > 1
    for leaf in free.leaves.values():
        assert leaf.free.square().mean().sqrt() == pytest.approx(1, abs=0.5) or not leaf.free.any()
    free.write(free.values())
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name
    for kind, weight in free.snapshot(free.stored()).weights.items():
        original = next(x.weight for x in linears if x.name == kind)
        assert torch.equal(weight.dequantize(), original.dequantize())


def test_a_set_is_one_leaf_and_stays_shared(toy):
    _block, linears = toy(shared=True)
    free = FreeValues(linears, {}, ALL, True)
    assert sorted(free.leaves) == [
        "down/scales", "sets/both/codebooks.0", "sets/both/codebooks.1", "up/scales",
    ]  # fmt: skip
    free.leaves["sets/both/codebooks.0"].free += 0.25
    up, down = free.snapshot(free.stored()).weights.values()
    for mine, theirs in zip(up.codebooks, down.codebooks, strict=True):
        assert torch.equal(load_codebook(mine), load_codebook(theirs))
    assert not torch.equal(
        load_codebook(up.codebooks[0]), load_codebook(linears[0].weight.codebooks[0])
    )
    assert up.codebook_set == down.codebook_set == "both"


def test_a_fixed_set_does_not_change(toy):
    block, linears = toy(shared=True)
    free = FreeValues(linears, norm_parameters(block), ALL, True, fixed_sets={"both"})
    assert all("codebooks" not in name for name in free.leaves)
    for leaf in free.leaves.values():
        leaf.free += 0.1
    for kind, weight in free.snapshot(free.stored()).weights.items():
        original = next(x.weight for x in linears if x.name == kind)
        assert torch.equal(load_codebook(weight.codebooks[0]), load_codebook(original.codebooks[0]))
        assert not torch.equal(weight.code.scales, original.code.scales)


@pytest.mark.parametrize("kinds", [("codebooks",), ("scales",), ("norms",)])
def test_only_what_is_asked_for_is_free(toy, kinds):
    block, linears = toy()
    free = FreeValues(linears, norm_parameters(block), kinds, True)
    assert {leaf.kind for leaf in free.leaves.values()} == set(kinds)
    assert free.count == sum(leaf.free.numel() for leaf in free.leaves.values())


def test_written_is_what_is_stored(toy):
    """The model with rounded values is the model that the stored weights make."""
    block, linears = toy(dtype="int8")
    free = FreeValues(linears, norm_parameters(block), ALL, True)
    for leaf in free.leaves.values():
        leaf.free += 0.3 * torch.randn_like(leaf.free)
    stored = free.stored()
    free.write(stored)
    weights = free.snapshot(stored).weights
    for linear in linears:
        assert torch.equal(linear.slot.read(), weights[linear.name].dequantize())
    for name, value in free.snapshot(stored).others.items():
        assert value.dtype == torch.float16
        assert torch.equal(block.get_parameter(name), value.float())


def test_norms_beyond_float16_are_kept_in_bfloat16(toy):
    block, linears = toy()
    free = FreeValues(linears, norm_parameters(block), ALL, False)
    free.leaves["norms/norm.weight"].free += 1e6
    (value,) = [v for n, v in free.snapshot(free.stored()).others.items() if n == "norm.weight"]
    assert value.dtype == torch.bfloat16
    assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", ["GPT2", "Mixtral", "GptOss"])
def test_transposed_and_fused_weights_are_trained_too(name):
    """A step down the gradient lowers the loss, for Conv1D's layout and slices of experts."""
    model = build(name)
    block = model.base_model.h[0] if name == "GPT2" else model.base_model.layers[0]
    linears = []
    for number, slot in enumerate(find_slots(block)):
        out_features, in_features = slot.shape
        weight = quantized(out_features, in_features, number)
        slot.write(weight.dequantize() * 0.3)
        linears.append(QuantizedSlot(slot.kind, slot, weight))
    free = FreeValues(linears, {}, ("codebooks", "scales"), relative=False)
    batch = tokens(2, 8)

    def loss():
        return model(batch, labels=batch).loss

    free.write(free.values())
    with free.gradients():
        before = loss()
        before.backward()
    gradients = {key: x.free.grad for key, x in free.leaves.items() if x.free.grad is not None}
    used = [key for key, gradient in gradients.items() if bool(gradient.any())]
    assert len(used) >= 3 * min(len(linears), 4)
    steepness = sum(float(gradient.square().sum()) for gradient in gradients.values())
    step = 1e-3 / steepness**0.5
    for key, gradient in gradients.items():
        free.leaves[key].free -= step * gradient
    free.write(free.values())
    with torch.no_grad():
        gained = float(before - loss())
    assert gained == pytest.approx(step * steepness, rel=0.1, abs=2e-6)
