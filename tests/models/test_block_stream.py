import pytest
import torch

from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks
from tests.architectures import ARCHITECTURES, build, tokens


def last_hidden_states(model, batch):
    """What the model's own forward pass gives after its last block, before the final norm."""
    _, blocks = find_blocks(model)
    seen = []

    def keep(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks[-1].register_forward_hook(keep)
    with torch.no_grad():
        model(batch)
    handle.remove()
    return seen[0]


def walked(model, batch, batch_size=2, dtype=torch.float32):
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, batch_size, dtype)
    for index in range(len(blocks)):
        stream.advance(index)
    return torch.cat(list(stream.hidden))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_walking_the_blocks_is_the_models_forward_pass(name):
    model = build(name)
    batch = tokens(4, 24)  # longer than the sliding windows of those that have one
    expected = last_hidden_states(model, batch)
    torch.testing.assert_close(walked(model, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "OPT"])
def test_batches_of_unequal_size(name):
    model = build(name)
    batch = tokens(5, 16)
    expected = last_hidden_states(model, batch)
    for size in (1, 3, 8):
        got = walked(model, batch, size)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_windows_that_are_called_differently_keep_their_own_calls():
    """A model that passes its blocks something of the text itself."""
    model = build("Llama")
    decoder = model.model
    inner = decoder.layers[0].forward

    def scaled(hidden_states, *args, position_embeddings, scale=1.0, **kwargs):
        output = inner(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        return output * scale

    def with_scale(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, {**kwargs, "scale": hidden.abs().mean()}

    decoder.layers[0].forward = scaled
    decoder.layers[0].register_forward_pre_hook(with_scale, with_kwargs=True)
    batch = tokens(4, 12)
    expected = torch.cat([last_hidden_states(model, one) for one in batch.split(1)])
    torch.testing.assert_close(walked(model, batch, 1), expected, rtol=1e-4, atol=1e-5)


def test_outputs_leave_the_hidden_states_and_advance_replaces_them():
    model = build("Llama")
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, tokens(4, 12), 2, torch.float32)
    assert len(stream) == 2
    first = [hidden.clone() for hidden in stream.hidden]
    outputs = list(stream.outputs(0))
    assert all(torch.equal(a, b) for a, b in zip(stream.hidden, first, strict=True))
    stream.advance(0)
    assert all(torch.equal(a, b) for a, b in zip(stream.hidden, outputs, strict=True))


def test_a_caller_between_batches_computes_in_its_own_precision():
    model = build("Llama")
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, tokens(4, 12), 2, torch.bfloat16)
    outputs = stream.outputs(0)
    next(outputs)
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_bfloat16_is_near_float32_and_not_equal():
    model = build("Llama")
    batch = tokens(2, 16)
    exact, rounded = walked(model, batch), walked(model, batch, dtype=torch.bfloat16).float()
    difference = float((exact - rounded).norm() / exact.norm())
    assert 0 < difference < 0.02


def test_no_hooks_are_left_behind():
    model = build("Llama")
    walked(model, tokens(2, 8))
    assert not any(m._forward_pre_hooks for m in model.modules())
