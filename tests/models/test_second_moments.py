import weakref

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from crvq.errors import QuantizationError
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks, find_slots
from crvq.models.second_moments import InputCollector, InputStatistics
from tests.architectures import ARCHITECTURES, MIXTURES, build, tokens


def collected(model, index, batch, dtype=torch.float32, batch_size=2):
    """The collector and slots of block ``index`` after a pass over ``batch``."""
    _, blocks = find_blocks(model)
    stream = BlockStream(model, blocks, batch, batch_size, dtype)
    for before in range(index):
        stream.advance(before)
    slots = find_slots(blocks[index])
    collector = InputCollector(slots)
    outputs = stream.outputs(index)
    for _ in range(len(stream)):
        with collector.collecting():
            next(outputs)
    return collector, slots


def hooked_inputs(model, index, batch):
    """Inputs of a block's linear modules in the model's own forward pass, by kind."""
    _, blocks = find_blocks(model)
    seen = {}

    def hook(kind):
        def keep(module, args):
            seen.setdefault(kind, []).append(args[0].flatten(0, -2).double())

        return keep

    handles = [
        module.register_forward_pre_hook(hook(kind))
        for kind, module in blocks[index].named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return {kind: torch.cat(parts) for kind, parts in seen.items()}


def second_moment(inputs):
    return inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linears_second_moment_is_that_of_its_input(name):
    model = build(name)
    batch = tokens(4, 24)
    collector, slots = collected(model, 1, batch)
    expected = hooked_inputs(model, 1, batch)
    modules = [slot for slot in slots if slot.module is not None]
    assert {slot.kind for slot in modules} == expected.keys()
    for slot in modules:
        found = collector.statistics(slot)
        assert found.tokens == len(expected[slot.kind])
        h = second_moment(expected[slot.kind])
        torch.testing.assert_close(
            found.second_moment().double(), h, rtol=1e-4, atol=1e-5 * float(h.abs().max())
        )


SHARING = {
    "Llama": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
              {"mlp.gate_proj", "mlp.up_proj"}],
    "OPT": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}],
    # Attention and MLP of a Phi block read the same normalized input.
    "Phi": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"}],
    "GPTNeoX": [],
    "Qwen2Moe": [{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                 {"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj",
                  "mlp.shared_expert_gate"}],
}  # fmt: skip


@pytest.mark.parametrize("name", SHARING)
def test_linears_that_read_one_input_share_one_object(name):
    collector, slots = collected(build(name), 0, tokens())
    sets = {}
    for slot in slots:
        sets.setdefault(id(collector.statistics(slot)), set()).add(slot.kind)
    shared = [kinds for kinds in sets.values() if len(kinds) > 1]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, SHARING[name]))


def expert_inputs(model, index, batch):
    """Inputs of each expert's two products, computed from the router's choice."""
    _, blocks = find_blocks(model)
    experts = next(m for m in blocks[index].modules() if type(m).__name__.endswith("Experts"))
    called = []
    handle = experts.register_forward_pre_hook(
        lambda module, args, kwargs: called.append([*args, *kwargs.values()]), with_kwargs=True
    )
    with torch.no_grad():
        model(batch)
    handle.remove()
    states, chosen = called[0][0].double(), called[0][1]
    inputs = {}
    for expert in range(len(experts.down_proj)):
        mine = states[(chosen == expert).any(1)]
        gate, up = (mine @ experts.gate_up_proj[expert].double().T).chunk(2, dim=1)
        inputs[f"gate_up_proj.{expert}"] = mine
        inputs[f"down_proj.{expert}"] = experts.act_fn(gate) * up
    return inputs


@pytest.mark.parametrize("name", MIXTURES)
def test_each_expert_gets_the_statistics_of_its_own_tokens(name):
    model = build(name)
    batch = tokens(4, 24)
    collector, slots = collected(model, 1, batch)
    expected = expert_inputs(model, 1, batch)
    experts = [slot for slot in slots if slot.expert is not None]
    assert len(experts) == len(expected)
    for slot in experts:
        inputs = expected[".".join(slot.kind.split(".")[-2:])]
        found = collector.statistics(slot)
        assert found.tokens == len(inputs)
        torch.testing.assert_close(
            found.second_moment().double(), second_moment(inputs), rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("name", MIXTURES)
def test_an_expert_that_no_token_was_sent_to_has_zeros(name):
    model = build(name)
    # One token, two experts of four.
    collector, slots = collected(model, 0, tokens(1, 2)[:, :1].expand(1, 2), batch_size=1)
    counts = {}
    for slot in slots:
        if slot.expert is not None:
            counts.setdefault(slot.expert, set()).add(collector.statistics(slot).tokens)
            if not collector.statistics(slot).tokens:
                assert not bool(collector.statistics(slot).second_moment().any())
                assert collector.statistics(slot).total.shape == (slot.shape[1],) * 2
    assert sorted(counts.values(), key=str) == [{0}, {0}, {2}, {2}]


def test_experts_that_are_not_applied_as_linears_have_none():
    collector, slots = collected(build("GptOss"), 0, tokens())
    for slot in slots:
        assert (collector.statistics(slot) is None) == (slot.expert is not None)


def test_float32_sums_are_enough_for_long_streams():
    """A hundred thousand tokens of very uneven size, a window at a time, against float64.

    Rounding errors of the sums are independent, so they grow like the root of the number of
    additions; they stay far below H's own sampling error, which is 1/√tokens.
    """
    generator = torch.Generator().manual_seed(0)
    features, window, windows = 64, 1024, 128
    statistics = InputStatistics(torch.zeros(features, features))
    exact = torch.zeros(features, features, dtype=torch.float64)
    sizes = torch.logspace(-3, 3, features)
    for _ in range(windows):
        x = torch.randn(window, features, generator=generator) * sizes + 0.5 * sizes
        statistics.add(x[None])
        exact += x.double().T @ x.double()
    assert statistics.tokens == windows * window
    h = exact / statistics.tokens
    heats = (h.diagonal()[:, None] * h.diagonal()).sqrt()
    error = (statistics.second_moment().double() - h).abs() / heats
    assert float(error.max()) < 1e-5
    assert float(error.max()) < statistics.tokens**-0.5 / 100


def test_inputs_in_bfloat16_are_summed_in_float32():
    """Autocast or not; bfloat16 cannot say 1003."""
    statistics = InputStatistics(torch.zeros(2, 2))
    ones = torch.ones(1, 1003, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(3):
            statistics.add(ones)
    assert statistics.total.dtype == torch.float32
    assert torch.equal(statistics.total, torch.full((2, 2), 3009.0))
    assert torch.equal(statistics.second_moment(), torch.ones(2, 2))


def test_products_of_a_bfloat16_pass_are_not_rounded():
    model = build("Llama")
    _, blocks = find_blocks(model)
    seen = []
    handle = blocks[0].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].flatten(0, 1).double())
    )
    collector, slots = collected(model, 0, tokens(), torch.bfloat16)
    handle.remove()
    (slot,) = [slot for slot in slots if slot.kind == "mlp.down_proj"]
    inputs = torch.cat(seen[-2:])
    torch.testing.assert_close(
        collector.statistics(slot).second_moment().double(), second_moment(inputs),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_inputs_that_part_after_the_first_pass_are_refused():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.apart = nn.Linear(3, 3), nn.Linear(3, 3), False

        def forward(self, x):
            return self.one(x) + self.other(x + 1 if self.apart else x)

    fork = Fork()
    collector = InputCollector(find_slots(fork))
    with collector.collecting():
        fork(torch.ones(2, 3))
    fork.apart = True
    with (
        pytest.raises(QuantizationError, match="other and one read one input"),
        collector.collecting(),
    ):
        fork(torch.ones(2, 3))
    assert not fork.one._forward_pre_hooks


def test_inputs_are_let_go_after_their_pass():
    linear = nn.Linear(3, 3)
    collector = InputCollector(find_slots(nn.Sequential(linear)))
    x = torch.ones(2, 3)
    held = weakref.ref(x)
    with torch.no_grad(), collector.collecting():
        linear(x)
    del x
    assert held() is None
