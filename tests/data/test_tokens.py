import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from crvq.data.documents import Documents
from crvq.data.tokens import tokenize, tokenize_text


def test_documents_are_joined_by_blank_lines_and_tokenized_once(tokenizer):
    tokens = tokenize(Documents(["ab", "c"], "test"), tokenizer)
    # One BOS at the very start, none at the second document.
    assert tokens.tolist() == [0, 4, 5, 2, 2, 6]


def test_the_separator_is_the_documents_own(tokenizer):
    assert tokenize(Documents(["a", "b"], "test", " "), tokenizer).tolist() == [0, 4, 3, 5]


def test_text_longer_than_the_models_context_is_not_cut(tokenizer):
    assert len(tokenize(Documents(["abcdefghij"], "test"), tokenizer)) == 11


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level tokenizer (as GPT-2's, SmolLM2's): no text is lost, some tokens cut letters."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    corpus = ["the cat sat on the mat, naïve café 猫が座った 🙂🙂 " * 20]
    alphabet = ByteLevel.alphabet()
    backend.train_from_iterator(
        corpus, BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40), data=st.data())
def test_bytes_of_tokens_are_those_of_the_text_they_came_from(byte_level, text, data):
    found = tokenize_text(text, byte_level)
    plain = byte_level(text)["input_ids"]
    assert found.ids.tolist() == plain
    assume(plain)
    # Closed form: in a byte-level vocabulary a token has one printable letter for every byte.
    sizes = [len(token) for token in byte_level.convert_ids_to_tokens(plain)]
    assert found.byte_ends[-1] == sum(sizes) == len(text.encode())
    first = data.draw(st.integers(0, len(plain) - 1))
    last = data.draw(st.integers(first, len(plain) - 1))
    exact = sum(sizes[first + 1 : last + 1])
    # A letter cut at either border counts with its first token: at most three bytes astray.
    assert abs(found.bytes_between(first, last) - exact) <= 3
    if text.isascii():
        assert found.bytes_between(first, last) == exact


def test_special_tokens_stand_for_no_text_and_dropped_blanks_for_the_next_token(tokenizer):
    found = tokenize_text("aé", tokenizer)  # é is <unk>, of two bytes
    assert found.ids.tolist() == [0, 4, 1]
    assert found.byte_ends.tolist() == [0, 1, 3]


def test_a_tokenizer_without_offsets_gives_tokens_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    found = tokenize_text("ab", tokenizer)
    assert found.ids.tolist() == [0, 4, 5]
    assert found.bytes_between(0, 2) is None
