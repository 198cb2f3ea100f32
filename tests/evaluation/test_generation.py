import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from crvq.errors import ConfigError, QuantizationError
from crvq.evaluation.generation import continuations, prompt_tokens
from tests.conftest import save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def words(tmp_path):
    """One token a word: w0, w1, ..."""
    save_tokenizer(tmp_path)
    return PreTrainedTokenizerFast.from_pretrained(tmp_path)


def most_likely(model, prompt, count):
    """Token by token, the whole text again each time."""
    ids = prompt.clone()
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, prompt.shape[1] :].tolist()


def test_it_is_the_most_likely_token_each_time(model, words):
    prompts = prompt_tokens(words, ["w3 w4 w5", "w7"], 6, 64)
    # The models' own settings would sample.
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=None)
    heard = []
    texts = continuations(model, words, prompts, 6, CPU, on_prompt=lambda: heard.append(1))
    expected = [words.decode(most_likely(model, prompt, 6)) for prompt in prompts]
    assert texts == expected
    assert len(heard) == 2
    assert model.generation_config.do_sample  # left as it was


def test_it_stops_at_the_end_token(llama, words):
    prompt = prompt_tokens(words, ["w3 w4"], 6, 64)
    path = most_likely(llama, prompt[0], 6)
    llama.generation_config = GenerationConfig(eos_token_id=path[2])
    text = continuations(llama, words, prompt, 6, CPU)[0]
    assert text == words.decode(path[: path.index(path[2]) + 1])


def test_nan_stops_with_the_prompt_and_the_module(llama, words):
    llama.model.embed_tokens.weight[9] = float("nan")
    prompts = prompt_tokens(words, ["w3", "w9"], 2, 64)
    with pytest.raises(QuantizationError, match=r"prompt 1 of 2 .*model\.embed_tokens"):
        continuations(llama, words, prompts, 2, CPU)


def test_prompts_that_cannot_be_continued_are_refused(words):
    with pytest.raises(ConfigError, match=r"prompts\[1\] has 3 tokens.*context of 8"):
        prompt_tokens(words, ["w1", "w1 w2 w3"], 6, 8)
    with pytest.raises(ConfigError, match="has no chat template"):
        prompt_tokens(words, ["w1"], 6, 8, chat_template=True)
    with pytest.raises(ConfigError, match=r"prompts\[0\]=' ' has no tokens"):
        prompt_tokens(words, [" "], 6, 8)


def test_the_chat_template_is_used_if_asked(words):
    words.chat_template = "{% for m in messages %}w8 {{ m['content'] }} w9{% endfor %}"
    plain, chat = (prompt_tokens(words, ["w5"], 1, None, chat_template=c) for c in (False, True))
    assert plain[0].tolist() == [[5]]
    assert chat[0].tolist() == [[8, 5, 9]]
