from types import SimpleNamespace

import pytest
import torch

from crvq.checkpoint import BlockStore
from crvq.errors import QuantizationError
from crvq.methods import create_method
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks, find_slots
from crvq.models.residence import IN_MEMORY
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.fingerprint import derived_seed
from crvq.tracking.events import RunListener
from tests.architectures import build, tokens


class Heard(RunListener):
    """Keeps what it hears."""

    def __init__(self):
        self.messages, self.rows, self.blocks = [], [], []

    def message(self, text):
        self.messages.append(text)

    def linear_quantized(self, row):
        self.rows.append(row)

    def block_quantized(self, block, rows, seconds):
        self.blocks.append((block, rows, seconds))


class Spy:
    """A method that keeps the inputs that it is shown and lets another one do the work."""

    def __init__(self, inner):
        self.inner, self.inputs = inner, {}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def quantize_block(self, block, linears):
        self.inputs.update({linear.name: linear for linear in linears})
        return self.inner.quantize_block(block, linears)


@pytest.fixture
def quantizer_of(compose_run, tmp_path):
    """A quantizer of a model, its method a spy, and what it reports."""

    def quantizer(model, batch, *overrides):
        config = compose_run(*overrides)
        name, blocks = find_blocks(model)
        method = Spy(create_method("crvq", config.method_params, config.seed))
        heard = Heard()
        store, _ = BlockStore.open(tmp_path / "checkpoint", {})
        stream = BlockStream(model, blocks, batch, 2, torch.float32)
        context = SimpleNamespace(config=config, listener=heard, residence=IN_MEMORY)
        return BlockwiseQuantizer(name, blocks, stream, method, store, context), method, heard

    return quantizer


def input_moment(model, batch, module):
    """E[x xᵀ] of what a module of the model is given now, in float64."""
    seen = []
    handle = module.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].flatten(0, -2).double())
    )
    with torch.no_grad():
        model(batch)
    handle.remove()
    return seen[0].T @ seen[0] / len(seen[0])


def close(found, expected):
    scale = float(expected.diagonal().max())
    return torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("stream", ["quantized", "full_precision"])
def test_the_stream_decides_whose_outputs_a_block_sees(stream, quantizer_of):
    """Block 1's inputs are made by block 0 as it was, or as it is after quantization."""
    model, batch = build("Llama"), tokens(4, 24)
    before = input_moment(model, batch, model.model.layers[1].self_attn.q_proj)
    quantizer, method, _ = quantizer_of(model, batch, f"calibration.stream={stream}")
    quantizer.run()
    after = input_moment(model, batch, model.model.layers[1].self_attn.q_proj)
    found = method.inputs["model.layers.1.self_attn.q_proj"].hessian.matrix
    assert close(found, before) == (stream == "full_precision")
    assert close(found, after) == (stream == "quantized")


def test_the_model_ends_with_the_stored_weights(quantizer_of, tmp_path):
    model, batch = build("Llama"), tokens()
    quantizer, _, heard = quantizer_of(model, batch)
    quantizer.run()
    store = BlockStore.read(tmp_path / "checkpoint")
    for index, block in enumerate(find_blocks(model)[1]):
        stored = store.load_block(index)
        for slot in find_slots(block):
            assert torch.equal(slot.read(), stored.weights[slot.kind].dequantize()), slot.kind
    assert [block for block, _, _ in heard.blocks] == [0, 1]
    assert [row for _, rows, _ in heard.blocks for row in rows] == heard.rows
    assert quantizer.seconds["quantize"] > 0
    assert quantizer.seconds["calibrate"] > 0


def test_inputs_carry_what_a_method_needs(quantizer_of):
    model, batch = build("Llama"), tokens(4, 24)
    held = model.model.layers[0].mlp.down_proj.weight.clone()
    quantizer, method, _ = quantizer_of(model, batch, "seed=7")
    quantizer.run()
    linear = method.inputs["model.layers.0.mlp.down_proj"]
    assert linear.kind == "mlp.down_proj"
    assert linear.tokens == 4 * 24
    assert torch.equal(linear.weight, held)
    assert linear.seed == derived_seed(7, linear.name)
    gate, up = (method.inputs[f"model.layers.0.mlp.{n}_proj"] for n in ("gate", "up"))
    assert gate.hessian is up.hessian
    assert gate.seed != up.seed


def test_experts_without_tokens_are_quantized_and_noted(quantizer_of):
    # All windows are one token, over and over: two of four experts see nothing in block 0.
    batch = torch.full((2, 24), 7)
    model = build("Mixtral")
    # Positions would tell the tokens apart in attention: keep its share out of the router's input.
    model.model.layers[0].self_attn.o_proj.weight.zero_()
    quantizer, method, heard = quantizer_of(model, batch)
    quantizer.run()
    unseen = [x for x in method.inputs.values() if "layers.0" in x.name and not x.tokens]
    assert len(unseen) == 4
    notes = {row.name: row.notes for row in heard.rows}
    for linear in unseen:
        assert "saw only 0 calibration tokens" in notes[linear.name]
        assert float(linear.weight.sub(_written(model, linear)).norm() / linear.weight.norm()) < 0.7


def _written(model, linear):
    index = int(linear.name.split(".")[2])
    slots = find_slots(find_blocks(model)[1][index])
    return next(slot.read() for slot in slots if slot.kind == linear.kind)


def test_fused_weights_that_are_no_linears_are_reported_once(quantizer_of):
    quantizer, _, heard = quantizer_of(build("GptOss"), tokens())
    quantizer.run()
    warned = [text for text in heard.messages if "stays in full precision" in text]
    assert warned == [
        f"model.layers.{block}.mlp.experts.{name} stays in full precision: its block does not "
        "apply it as a linear"
        for block in range(2)
        for name in ("gate_up_proj", "down_proj")
    ]


def test_a_weight_that_is_not_finite_stops_with_its_name(quantizer_of, tmp_path):
    model = build("Llama")
    quantizer, _, _ = quantizer_of(model, tokens())
    # Where no activation passes through it before it is read.
    model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(QuantizationError, match=r"weight of model\.layers\.1\.mlp\.down_proj"):
        quantizer.run()
    assert BlockStore.read(tmp_path / "checkpoint").whole_blocks() == 1


def test_preparation_leaves_the_stream_and_the_weights_as_they_were(quantizer_of):
    model, batch = build("Llama"), tokens()
    before = {name: p.clone() for name, p in model.named_parameters()}
    quantizer, _, _ = quantizer_of(model, batch, "crvq.codebook_scope=model")
    hidden = [h.clone() for h in quantizer._stream.hidden]
    quantizer.prepare()
    assert all(torch.equal(a, b) for a, b in zip(quantizer._stream.hidden, hidden, strict=True))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
