import copy
import math

import pytest
import torch

from crvq.errors import QuantizationError
from crvq.evaluation import agreement as module
from crvq.evaluation.agreement import agreement, final_hidden_states

CPU = torch.device("cpu")


def random_windows(count=3, context=14):
    return torch.randint(0, 50, (count, context), generator=torch.Generator().manual_seed(1))


def damaged(model):
    """The model with coarser weights inside its blocks, as quantization leaves it."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if parameter.dim() > 1 and "layers" in name:
            parameter.copy_((parameter * 4).round() / 4)
    return other


def brute_force(reference, model, windows):
    """All logits of both models at once, in float64."""
    p = reference(windows).logits[:, :-1].double().log_softmax(-1)
    q = model(windows).logits[:, :-1].double().log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).mean().item()
    return divergence, (p.argmax(-1) == q.argmax(-1)).double().mean().item()


def compared(reference, model, windows, dtype=torch.float32):
    states = final_hidden_states(reference, windows, CPU, dtype)
    return agreement(model, windows, states, CPU, dtype)


@pytest.mark.parametrize("positions", [64, 5, 1])
def test_it_is_the_mean_over_all_positions(model, monkeypatch, positions):
    monkeypatch.setattr(module, "POSITIONS", positions)
    windows, other = random_windows(), damaged(model)
    divergence, same = brute_force(model, other, windows)
    result = compared(model, other, windows)
    assert divergence > 0.01  # or nothing is tested
    assert result.kl_divergence == pytest.approx(divergence, rel=1e-4)
    assert result.top1_agreement == pytest.approx(same)
    assert 0 < result.top1_agreement < 1
    assert (result.tokens, result.windows, result.context) == (3 * 13, 3, 14)


def test_it_is_not_symmetric(llama):
    windows, other = random_windows(), damaged(llama)
    there, back = compared(llama, other, windows), compared(other, llama, windows)
    assert there.kl_divergence != pytest.approx(back.kl_divergence, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_agrees_with_itself(model, dtype):
    result = compared(model, model, random_windows(), dtype)
    assert (result.kl_divergence, result.top1_agreement) == (0.0, 1.0)


def test_a_uniform_model_diverges_by_the_missing_entropy(llama):
    # KL(p || uniform) = log(vocabulary) - entropy(p); the states are zeroed, not the shared head.
    windows, other = random_windows(), copy.deepcopy(llama)
    other.model.norm.weight.zero_()
    p = llama(windows).logits[:, :-1].double().log_softmax(-1)
    entropy = -(p.exp() * p).sum(-1).mean().item()
    result = compared(llama, other, windows)
    assert result.kl_divergence == pytest.approx(math.log(50) - entropy, rel=1e-5)


def test_nothing_larger_than_hidden_states_is_kept(llama):
    windows = random_windows()
    states = final_hidden_states(llama, windows, CPU)
    assert [tuple(state.shape) for state in states] == [(13, 16)] * 3


def test_logits_are_held_for_a_slice_only(llama, monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", 4)
    windows, sizes = random_windows(1, 14), []
    states = final_hidden_states(llama, windows, CPU)
    split = module.split_head(llama, windows)  # its own probe is not what is measured
    monkeypatch.setattr(module, "split_head", lambda *_: split)
    llama.lm_head.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[0]))
    agreement(llama, windows, states, CPU)
    assert max(sizes) == 4


@pytest.mark.parametrize("side", ["reference", "model"])
def test_nan_names_the_window_and_the_module(llama, side):
    windows, other = random_windows().clamp(max=48), copy.deepcopy(llama)
    windows[2, 3] = 49
    broken = llama if side == "reference" else other
    broken.model.embed_tokens.weight[49] = float("nan")
    with pytest.raises(QuantizationError, match=r"window 2 of 3 .*model\.embed_tokens"):
        compared(llama, other, windows)


def test_a_model_that_cannot_be_taken_apart_is_refused(llama, monkeypatch):
    monkeypatch.setattr(module, "split_head", lambda *_: None)
    with pytest.raises(QuantizationError, match=r"eval\.agreement=null"):
        final_hidden_states(llama, random_windows(), CPU)
