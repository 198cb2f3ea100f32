from crvq.data.documents import Documents
from crvq.data.tokens import tokenize


def test_documents_are_joined_by_blank_lines_and_tokenized_once(tokenizer):
    tokens = tokenize(Documents(["ab", "c"], "test"), tokenizer)
    # One BOS at the very start, none at the second document.
    assert tokens.tolist() == [0, 4, 5, 2, 2, 6]


def test_the_separator_is_the_documents_own(tokenizer):
    assert tokenize(Documents(["a", "b"], "test", " "), tokenizer).tolist() == [0, 4, 3, 5]


def test_text_longer_than_the_models_context_is_not_cut(tokenizer):
    assert len(tokenize(Documents(["abcdefghij"], "test"), tokenizer)) == 11
