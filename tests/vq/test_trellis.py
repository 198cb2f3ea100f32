"""Trellis codes: paths by brute force, circles, and the published distortion."""

import itertools

import numpy as np
import pytest
import torch

from crvq.vq import kernels, trellis
from crvq.vq.trellis import code_table, from_tiles, search_trellis, states_of, to_tiles, viterbi


@pytest.fixture(params=["compiled", "torch"])
def engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(trellis, "compiled_trellis_for", lambda device: None)
    elif kernels.compiled_trellis_for(torch.device("cpu")) is None:
        pytest.skip("numba is not here")
    return request.param


def all_circles(length, code_bits, state_bits):
    """Every circle of codes, and its states read from the bits one by one."""
    codes = list(itertools.product(range(1 << code_bits), repeat=length))
    states = []
    for circle in codes:
        bits = "".join(f"{code:0{code_bits}b}" for code in circle)
        ends = [code_bits * (t + 1) for t in range(length)]
        states.append([int((bits + bits)[: len(bits) + end][-state_bits:], 2) for end in ends])
    return torch.tensor(codes), torch.tensor(states)


def distance(values, weights, numbers):
    return (weights * (values[:, None] - numbers) ** 2).double().sum(-1)


@pytest.mark.parametrize(("length", "code_bits", "state_bits"), [(8, 1, 4), (5, 2, 5), (4, 3, 7)])
def test_states_are_the_bits_that_end_with_the_code(length, code_bits, state_bits):
    codes, states = all_circles(length, code_bits, state_bits)
    assert torch.equal(states_of(codes, code_bits, state_bits), states)


@pytest.mark.parametrize(("length", "code_bits", "state_bits"), [(10, 1, 4), (6, 2, 5), (4, 3, 5)])
def test_the_path_is_the_best_of_all(engine, length, code_bits, state_bits):
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(1 << state_bits, generator=draw)
    values, weights = torch.randn(5, length, generator=draw), torch.rand(length, generator=draw)
    _, states = all_circles(length, code_bits, state_bits)
    cost = distance(values, weights, table[states])
    # The register before the first number is what its state holds but for its own code.
    crossing = states[:, 0] >> code_bits
    asked = crossing[torch.randint(len(crossing), (5,), generator=draw)]
    found = viterbi(values, weights, table, code_bits, asked)
    for row in range(5):
        own = cost[row].masked_fill(crossing != asked[row], torch.inf)
        assert torch.equal(found[row], states[own.argmin()])
    # Free ends: any first state, each later one an allowed successor.
    free = viterbi(values, weights, table, code_bits, None)
    reached = distance(values, weights, table[free][:, None])[:, 0]
    mask = (1 << state_bits) - 1
    paths = torch.arange(1 << state_bits)[:, None]
    for _ in range(length - 1):
        following = (paths[:, -1:, None] << code_bits & mask) + torch.arange(1 << code_bits)
        paths = torch.cat([paths.repeat_interleave(1 << code_bits, 0), following.reshape(-1, 1)], 1)
    assert torch.allclose(reached, distance(values, weights, table[paths]).min(1).values)
    circles = states_of(search_trellis(values, weights, table, code_bits), code_bits, state_bits)
    chosen = distance(values, weights, table[circles][:, None])[:, 0]
    assert bool((chosen >= cost.min(1).values - 1e-6).all())
    assert float(chosen.mean()) < 1.3 * float(cost.min(1).values.mean())


def test_codes_of_a_circle_lead_to_the_states_that_were_chosen(engine):
    draw = torch.Generator().manual_seed(1)
    table, values = code_table("1mad", 8), torch.randn(20, 32, generator=draw)
    crossing = torch.randint(1 << 6, (20,), generator=draw)
    states = viterbi(values, torch.ones(32), table, 2, crossing)
    assert torch.equal(states_of(states & 3, 2, 8), states)


def test_computed_codes_follow_their_definitions():
    for state in (0, 1, 777, 65535):
        word = (state * 34038481 + 76625530) % 2**32
        expected = (sum(word.to_bytes(4, "little")) - 510) / np.sqrt(4 * (256**2 - 1) / 12)
        assert float(code_table("1mad", 16)[state]) == pytest.approx(expected, rel=1e-6)
        word = (state * 89226354 + 64248484) % 2**32
        word &= 0b10001111111111111000111111111111
        halves = np.array([word % 2**16, word >> 16], dtype=np.uint16)
        halves ^= np.array(0.922, dtype=np.float16).view(np.uint16)
        expected = halves.view(np.float16).astype(float).sum() * float(
            code_table("3inst", 16)[0] / reference_of_state_0()
        )
        assert float(code_table("3inst", 16)[state]) == pytest.approx(expected, rel=1e-5)
    for code in ("1mad", "3inst"):
        assert float(code_table(code, 16).std()) == pytest.approx(1, abs=2e-3)


def reference_of_state_0():
    halves = np.array([64248484 % 2**16, 64248484 >> 16], dtype=np.uint16) & 0x8FFF
    halves ^= np.array(0.922, dtype=np.float16).view(np.uint16)
    return halves.view(np.float16).astype(float).sum()


@pytest.mark.parametrize("code", ["1mad", "3inst"])
def test_distortion_of_a_normal_source_is_the_published_one(code):
    """Two bits, L=16: 0.069 (table 1 of the paper); a scalar quantizer has 0.118 at best."""
    values = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    for state_bits, low, high in ((16, 0.066, 0.072), (12, 0.070, 0.077)):
        table = code_table(code, state_bits)
        codes = search_trellis(values, torch.ones(256), table, 2)
        numbers = table[states_of(codes, 2, state_bits)]
        assert low < float((values - numbers).square().mean()) < high


def test_tiles_come_back():
    weight = torch.arange(40 * 23.0).view(40, 23)
    tiles = to_tiles(weight)
    assert torch.equal(from_tiles(tiles, 40, 23), weight)
    assert float(tiles[1, 2, 3 * 16 + 5]) == float(weight[35, 21])
