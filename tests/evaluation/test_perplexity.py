import math

import pytest
import torch

from crvq.errors import QuantizationError
from crvq.evaluation import perplexity as module
from crvq.evaluation.hidden_states import split_head
from crvq.evaluation.perplexity import bits_per_byte, perplexity

CPU = torch.device("cpu")


def random_windows(count, context):
    return torch.randint(0, 50, (count, context), generator=torch.Generator().manual_seed(1))


def mean_nll_in_float64(model, windows):
    """Each window by itself, the whole softmax in float64."""
    logs = [torch.log_softmax(model(w[None]).logits[0].double(), -1) for w in windows]
    picked = [lp[:-1].gather(1, w[1:, None]) for lp, w in zip(logs, windows, strict=True)]
    return -torch.stack(picked).mean().item()


@pytest.mark.parametrize("positions", [512, 5, 1])
def test_it_is_the_plain_mean_whatever_the_slices(model, monkeypatch, positions):
    monkeypatch.setattr(module, "POSITIONS", positions)
    windows = random_windows(3, 12)
    result = perplexity(model, windows, CPU)
    assert math.log(result.perplexity) == pytest.approx(
        mean_nll_in_float64(model, windows), rel=1e-6
    )
    assert (result.tokens, result.windows, result.context) == (33, 3, 12)
    assert result.nll_sum == pytest.approx(11 * sum(result.window_nll))


def test_it_is_transformers_own_loss(model):
    windows = random_windows(1, 20)
    loss = model(windows, labels=windows).loss.item()
    assert math.log(perplexity(model, windows, CPU).perplexity) == pytest.approx(loss, rel=1e-5)


def test_gptqs_sum_gives_the_same_number(llama):
    windows = random_windows(4, 10)
    losses = [llama(w[None], labels=w[None]).loss.item() * 10 for w in windows]
    gptq = math.exp(sum(losses) / (4 * 10))
    assert perplexity(llama, windows, CPU).perplexity == pytest.approx(gptq, rel=1e-6)


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(llama):
    llama.lm_head.weight.zero_()
    assert perplexity(llama, random_windows(2, 9), CPU).perplexity == pytest.approx(50, rel=1e-6)


@pytest.mark.parametrize("overlap", [0, 1, 2, 7, 9])
def test_an_overlap_is_context_only(llama, overlap):
    # A text of 40 tokens, token by token: each is predicted once, by the first window that has it.
    text = random_windows(1, 40)[0]
    windows = text.unfold(0, 10, 10 - overlap)
    logs, seen = [], set()
    for number, window in enumerate(windows):
        start = number * (10 - overlap)
        distribution = llama(window[None]).logits[0].double().log_softmax(-1)
        for position in range(1, 10):
            first_of_a_later_window = number and position < max(1, overlap)
            if start + position not in seen and not first_of_a_later_window:
                logs.append(distribution[position - 1, window[position]].item())
                seen.add(start + position)
    result = perplexity(llama, windows, CPU, overlap=overlap)
    assert result.tokens == len(logs)
    assert result.nll_sum == pytest.approx(-sum(logs), rel=1e-6)
    assert math.log(result.perplexity) == pytest.approx(-sum(logs) / len(logs), rel=1e-6)


def test_bits_per_byte_of_a_uniform_model_in_closed_form():
    # 256 equally likely tokens are 8 bits each; two bytes per token make 4 bits a byte.
    assert bits_per_byte(256.0, tokens=30, text_bytes=60) == pytest.approx(4.0)
    assert bits_per_byte(math.inf, 1, 1) == math.inf


def test_every_window_is_told(llama):
    seen = []
    perplexity(llama, random_windows(3, 6), CPU, on_window=lambda: seen.append(1))
    assert len(seen) == 3


def test_logits_are_never_held_for_more_than_a_slice(llama, monkeypatch):
    monkeypatch.setattr(module, "POSITIONS", 4)
    sizes = []
    windows = random_windows(1, 30)
    split = split_head(llama, windows)  # its own probe is not what is measured
    monkeypatch.setattr(module, "split_head", lambda *_: split)
    llama.lm_head.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[0]))
    perplexity(llama, windows, CPU)
    assert sizes == [4] * 7 + [1]


def test_bfloat16_is_close_and_leaves_the_weights(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    windows = random_windows(3, 32)
    exact = perplexity(model, windows, CPU).nll_sum
    rounded = perplexity(model, windows, CPU, torch.bfloat16).nll_sum
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_nan_names_the_window_and_the_module(llama):
    windows = random_windows(3, 6).clamp(max=48)
    windows[1, 3] = 49
    llama.model.embed_tokens.weight[49] = float("nan")
    with pytest.raises(QuantizationError, match=r"window 1 of 3 .*model\.embed_tokens"):
        perplexity(llama, windows, CPU)


def test_a_hopeless_model_is_infinitely_perplexed(llama):
    llama.lm_head.weight.zero_()
    llama.lm_head.weight[0] = 1e30
    # Not NaN and not a crash: a very wrong model is a result.
    result = perplexity(llama, random_windows(2, 9), CPU)
    assert math.isfinite(result.nll_sum)
    assert result.perplexity == math.inf
