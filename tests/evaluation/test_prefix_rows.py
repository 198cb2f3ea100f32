import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.evaluation.prefix_rows import batch, merge

SEQUENCES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8), min_size=1, max_size=5)
CPU = torch.device("cpu")


def test_what_sequences_share_stands_there_once():
    row = merge([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4]])
    assert row.tokens == [1, 2, 3, 4, 5]
    assert row.positions == [0, 1, 2, 3, 2]
    assert row.segments == [0, 0, 1, 1, 2]
    assert row.paths == [[0, 1, 2, 3], [0, 1, 4], [0, 1, 2, 3]]


@given(SEQUENCES)
def test_a_path_is_its_sequence_at_its_own_positions(sequences):
    row = merge(sequences)
    for sequence, path in zip(sequences, row.paths, strict=True):
        assert [row.tokens[place] for place in path] == sequence
        assert [row.positions[place] for place in path] == list(range(len(sequence)))
    assert len(row) <= sum(map(len, sequences))


@given(st.lists(SEQUENCES, min_size=1, max_size=3))
def test_a_token_sees_what_comes_before_it_on_its_path_and_nothing_else(groups):
    rows = [merge(sequences) for sequences in groups]
    made = batch(rows, CPU)
    longest = max(map(len, rows))
    assert made.tokens.shape == (len(rows), longest)
    mask = made.mask
    if mask is None:
        assert not any(row.branches for row in rows)
        mask = torch.ones(len(rows), 1, longest, longest, dtype=torch.bool).tril()
    for index, row in enumerate(rows):
        for path in row.paths:
            for place, token in enumerate(path):
                assert mask[index, 0, token].nonzero()[:, 0].tolist() == path[: place + 1]
    assert mask.any(dim=-1).all()  # softmax over nothing would be NaN


@pytest.mark.parametrize("share", [0, 1, 5])
def test_a_model_computes_in_a_row_what_it_computes_alone(llama, share):
    draw = torch.Generator().manual_seed(share)
    prefix = torch.randint(1, 50, (share,), generator=draw).tolist()
    groups = [
        [[*prefix, *torch.randint(1, 50, (n,), generator=draw).tolist()] for n in lengths]
        for lengths in ((2, 5, 3), (1, 1), (9,))
    ]
    rows = [merge(sequences) for sequences in groups]
    states = llama.model(**batch(rows, CPU).arguments(), use_cache=False).last_hidden_state
    for index, (row, sequences) in enumerate(zip(rows, groups, strict=True)):
        for path, sequence in zip(row.paths, sequences, strict=True):
            alone = llama.model(torch.tensor([sequence])).last_hidden_state[0]
            torch.testing.assert_close(states[index, path], alone, rtol=1e-4, atol=1e-4)
