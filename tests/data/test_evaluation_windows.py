import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crvq.config import PerplexityConfig
from crvq.data.documents import Documents
from crvq.data.evaluation_windows import cut_windows
from crvq.errors import ConfigError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documents(*lengths):
    """Texts of so many letters; the tokenizer makes one token of each, and a BOS of every text."""
    draw = random.Random(3)
    return Documents(["".join(draw.choices(LETTERS, k=length)) for length in lengths], "test")


def drawn_by_hand(texts, tokenizer, count, context, seed):
    """The draw as GPTQ's and AQLM's authors describe it, on Python's global generator."""
    random.seed(seed)
    windows = []
    for _ in range(count):
        while True:
            ids = tokenizer(texts[random.randint(0, len(texts) - 1)])["input_ids"]
            if len(ids) >= context:
                break
        if len(ids) == context:
            windows.append(ids)
        else:
            start = random.randint(0, len(ids) - context - 1)
            windows.append(ids[start : start + context])
    return windows


@pytest.mark.parametrize("seed", [0, 5])
def test_drawn_windows_are_those_of_the_gptq_line(tokenizer, seed):
    # Too short by one, exactly one window, one token more, and long ones.
    given_texts = documents(2, 6, 7, 8, 30, 5, 90)
    config = PerplexityConfig(windows="drawn", context=8, max_windows=40, seed=seed)
    found = cut_windows(given_texts, tokenizer, config)
    expected = drawn_by_hand(given_texts.texts, tokenizer, 40, 8, seed)
    assert found.ids.tolist() == expected
    assert (found.available, found.overlap) == (None, 0)
    assert f"seed {seed}" in found.protocol
    # One byte a letter, and none for a BOS, which is never scored: it stands first.
    assert found.scored_bytes == 40 * 7


def test_the_last_start_is_never_drawn(tokenizer):
    # AQLM's randint(0, n - context - 1) leaves one out; another draw would be another number.
    text = documents(9)
    config = PerplexityConfig(windows="drawn", context=8, max_windows=60)
    last = tokenizer(text.texts[0])["input_ids"][2:]
    assert last not in cut_windows(text, tokenizer, config).ids.tolist()


def test_documents_that_are_all_too_short_are_refused(tokenizer):
    config = PerplexityConfig(windows="drawn", context=8, max_windows=2)
    with pytest.raises(ConfigError, match=r"eval\.perplexity\.c4: none of the 2 documents has 8"):
        cut_windows(documents(6, 3), tokenizer, config, "eval.perplexity.c4")


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    context=st.integers(2, 12),
    stride=st.one_of(st.none(), st.integers(1, 12)),
    most=st.one_of(st.none(), st.integers(1, 4)),
)
def test_consecutive_windows_score_every_token_once(tokenizer, lengths, context, stride, most):
    stride = stride and min(stride, context)
    text = documents(*lengths)
    joined = [0, *(tokenizer.vocab.get(letter) for letter in "\n\n".join(text.texts))]
    config = PerplexityConfig(context=context, stride=stride, max_windows=most)
    if len(joined) < context:
        with pytest.raises(ConfigError, match=f"{len(joined)} tokens"):
            cut_windows(text, tokenizer, config)
        return
    found = cut_windows(text, tokenizer, config)
    step = stride or context
    starts = list(range(0, len(joined) - context + 1, step))
    assert found.available == len(starts)
    assert found.ids.tolist() == [joined[s : s + context] for s in starts[:most]]
    # Positions scored, by hand: all but each window's first and those scored before.
    scored: list[int] = []
    for start in starts[:most]:
        fresh = set(range(start + 1, start + context)) - set(scored)
        # A token that only an earlier window's first position covered stays unscored.
        scored += sorted(p for p in fresh if not scored or p > max(scored))
    assert found.scored_bytes == len(scored)


def test_the_first_documents_are_told(tokenizer):
    config = PerplexityConfig(context=4, max_documents=1100, separator=" ")
    found = cut_windows(documents(20), tokenizer, config)
    assert "the first 1100 documents" in found.protocol


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    context=st.integers(2, 12),
    stride=st.one_of(st.none(), st.integers(1, 11)),
)
def test_with_bos_every_token_of_text_is_scored_once(tokenizer, lengths, context, stride):
    """Built up token by token: what each window scores, and from what it is predicted."""
    stride = stride and min(stride, context - 1)
    text = documents(*lengths)
    joined = [tokenizer.vocab.get(letter) for letter in "\n\n".join(text.texts)]
    config = PerplexityConfig(context=context, stride=stride, bos="each_window")
    if len(joined) < context - 1:
        with pytest.raises(ConfigError, match=f"{len(joined)} tokens"):
            cut_windows(text, tokenizer, config)
        return
    found = cut_windows(text, tokenizer, config)
    bos = tokenizer.bos_token_id
    scored = []
    for index, window in enumerate(found.ids.tolist()):
        start = index * (stride or context - 1)
        assert window == [bos, *joined[start : start + context - 1]]
        first = max(1, found.overlap if index else 1)  # as `perplexity` scores them
        scored += range(start + first - 1, start + context - 1)
    assert scored == list(range(len(scored)))
    assert found.scored_bytes == len(scored)  # one byte per letter
    assert found.bos == "each_window"
    assert f"each window is BOS and {context - 1} tokens of text" in found.protocol


def test_drawn_windows_with_bos(tokenizer):
    text = documents(6, 7, 40)
    config = PerplexityConfig(windows="drawn", context=8, max_windows=30, bos="each_window")
    found = cut_windows(text, tokenizer, config)
    ids = [tokenizer(one, add_special_tokens=False)["input_ids"] for one in text.texts]
    places = {tuple(one[i : i + 7]) for one in ids for i in range(len(one) - 6)}
    assert found.ids.shape == (30, 8)
    assert (found.ids[:, 0] == tokenizer.bos_token_id).all()
    assert {tuple(window[1:]) for window in found.ids.tolist()} <= places
    assert tuple(ids[1]) in {tuple(window[1:]) for window in found.ids.tolist()}
    assert found.scored_bytes == 30 * 7


def test_a_stride_that_would_leave_a_token_out_is_refused(tokenizer):
    config = PerplexityConfig(context=8, stride=8, bos="each_window")
    with pytest.raises(ConfigError, match=r"stride=8 is above the 7 tokens of text.*stride=7"):
        cut_windows(documents(40), tokenizer, config)


@pytest.mark.parametrize(
    ("asked", "kind", "bos"),
    [
        ("auto", "llama", "none"),
        ("auto", "gemma3_text", "each_window"),
        ("auto", "gemma", "each_window"),
        ("none", "gemma", "none"),
        ("each_window", "llama", "each_window"),
    ],
)
def test_what_auto_comes_to(tokenizer, asked, kind, bos):
    config = PerplexityConfig(context=8, bos=asked)
    found = cut_windows(documents(20), tokenizer, config, model_type=kind)
    assert found.bos == bos
    if bos == "none":
        assert found.ids.tolist()[0][0] == tokenizer.bos_token_id  # the text's own, once
        assert tokenizer.bos_token_id not in found.ids.tolist()[1]


def test_a_tokenizer_without_bos(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None
    config = PerplexityConfig(context=8, bos="each_window")
    with pytest.raises(ConfigError, match=r"eval\.perplexity\.c4\.bos=each_window.*no BOS token"):
        cut_windows(documents(20), tokenizer, config, "eval.perplexity.c4")
    auto = config.model_copy(update={"bos": "auto"})
    assert cut_windows(documents(20), tokenizer, auto, model_type="gemma").bos == "none"
