"""Log-likelihoods against lm-eval's own model class and against a plain loop in float64."""

import random

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from crvq.errors import QuantizationError
from crvq.evaluation.continuation_lm import ContinuationLM
from tests.zero_shot_data import words


@pytest.fixture
def tiny(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model, AutoTokenizer.from_pretrained(tiny_folder, eos_token="w95")


@pytest.fixture
def requests():
    """Questions with options of one and of several tokens, one without context, one too long."""
    draw = random.Random(1)
    asked = []
    for question in range(9):
        context = words(draw, (6, 0, 80)[question % 3] if question > 5 else draw.randrange(3, 30))
        for option in range(4):
            text = f" {words(draw, 1 if question % 2 else draw.randrange(1, 6))}"
            text = text if context else text.strip()
            metadata = ("task", question, 1)
            asked.append(Instance("loglikelihood", {}, (context, text), option, metadata))
    return asked


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_as_in_lm_eval(tiny, requests, share, batch_size):
    model, tokenizer = tiny
    lm = ContinuationLM(model, tokenizer, batch_size, torch.float32, share)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    ours, theirs = lm.loglikelihood(requests), plain.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [score for score, _ in ours] == pytest.approx([s for s, _ in theirs], rel=1e-5)
    assert bool(lm.shares_context) is share
    assert lm.work.truncated > 0
    assert (lm.work.computed_tokens < 0.7 * lm.work.tokens) or not share


def test_as_by_hand(tiny, requests):
    model, tokenizer = tiny
    lm = ContinuationLM(model, tokenizer, 4, torch.float32)
    double = AutoModelForCausalLM.from_config(model.config).double().eval()
    double.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    short = [request for request in requests if 0 < len(request.args[0].split()) < 50]
    for request, (score, greedy) in zip(short, lm.loglikelihood(short), strict=True):
        context, option = (tokenizer.encode(text) for text in request.args)
        logits = double(torch.tensor([context + option])).logits[0].log_softmax(-1)
        at = range(len(context) - 1, len(context) + len(option) - 1)
        wanted = sum(logits[place, token] for place, token in zip(at, option, strict=True))
        assert score == pytest.approx(wanted.item(), rel=1e-5)
        assert greedy is (logits[list(at)].argmax(-1).tolist() == option)


def test_greedy_continuations_are_seen(tiny):
    model, tokenizer = tiny
    context = "w3 w4 w5"
    best = model(torch.tensor([tokenizer.encode(context)])).logits[0, -1].argmax().item()
    asked = [
        Instance("loglikelihood", {}, (context, f" w{token}"), 0, ("task", 0, 1))
        for token in (best, best - 1)
    ]
    lm = ContinuationLM(model, tokenizer, 4, torch.float32)
    assert [greedy for _, greedy in lm.loglikelihood(asked)] == [True, False]


def test_rolling_windows_as_in_lm_eval(tiny):
    model, tokenizer = tiny
    texts = [words(random.Random(n), 20 + 70 * n) for n in range(2)]
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0, ("t", 0, 1)) for text in texts]
    lm = ContinuationLM(model, tokenizer, 2, torch.float32)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    theirs = plain.loglikelihood_rolling(asked, disable_tqdm=True)
    assert lm.loglikelihood_rolling(asked) == pytest.approx(theirs, rel=1e-5)


def test_progress_counts_every_request(tiny, requests):
    model, tokenizer = tiny
    heard = []
    lm = ContinuationLM(model, tokenizer, 4, torch.float32)
    lm.listen(lambda count: heard.append(-count), heard.append)
    lm.loglikelihood(requests)
    assert heard[0] == -len(requests)
    assert sum(heard) == 0


def test_a_broken_layer_is_named(tiny, requests):
    model, tokenizer = tiny
    model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    lm = ContinuationLM(model, tokenizer, 4, torch.float32, share_context=False)
    with pytest.raises(QuantizationError, match=r"question \d of task.*layers\.1\.mlp\.up_proj"):
        lm.loglikelihood(requests)


def test_the_tokenizer_is_left_as_it_is(tiny):
    model, tokenizer = tiny
    ContinuationLM(model, tokenizer, 4, torch.float32)
    assert tokenizer.pad_token is None
