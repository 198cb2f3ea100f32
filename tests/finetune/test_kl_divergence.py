import pytest
import torch
from torch import nn

from crvq.finetune.losses import exact_kl, sliced_kl, top_k_kl

VOCABULARY = 50


@pytest.fixture
def setting():
    torch.manual_seed(0)
    head = nn.Linear(8, VOCABULARY).requires_grad_(False)
    return head, torch.randn(37, 8), torch.randn(37, 8)


def brute_force(teacher, student):
    """Mean over positions, in float64, token by token."""
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


@pytest.mark.parametrize("positions", [1, 5, 36, 37, 1000])
def test_slices_are_the_whole(setting, positions):
    head, teacher, student = setting
    states = student.clone().requires_grad_()
    known = head(teacher)
    loss = sliced_kl(states, head, lambda part, logits: exact_kl(known[part], logits), positions)
    (3 * loss).backward()
    other = student.double().requires_grad_()
    expected = brute_force(known, head.double()(other))
    (3 * expected).backward()
    torch.testing.assert_close(loss.double(), expected)
    torch.testing.assert_close(states.grad.double(), other.grad, atol=1e-7, rtol=1e-4)


def test_without_a_graph_no_gradient_is_taken(setting):
    head, teacher, student = setting
    calls = []

    def divergence(part, logits):
        calls.append(logits.requires_grad)
        return exact_kl(head(teacher[part]), logits)

    with torch.no_grad():
        sliced_kl(student.requires_grad_(), head, divergence, 10)
    assert calls == [False] * 4


def test_equal_predictions_have_no_divergence(setting):
    head, teacher, _ = setting
    states = teacher.clone().requires_grad_()
    loss = sliced_kl(states, head, lambda part, logits: exact_kl(head(teacher[part]), logits))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(states.grad.abs().max()) < 1e-6


def top(logits, k):
    return logits.log_softmax(-1).topk(k)


def test_top_k_with_the_whole_vocabulary_is_exact(setting):
    head, teacher, student = setting
    values, tokens = top(head(teacher), VOCABULARY)
    found = top_k_kl(values, tokens, head(student))
    torch.testing.assert_close(found, exact_kl(head(teacher), head(student)))


@pytest.mark.parametrize("k", [1, 5, 49])
def test_top_k_lumps_the_tail_together(setting, k):
    """As a divergence between distributions over k tokens and the rest; never more than exact."""
    head, teacher, student = setting
    values, tokens = top(head(teacher), k)
    found = top_k_kl(values, tokens, head(student))

    def lumped(states):
        p = head(states).double().softmax(-1)
        kept = p.gather(-1, tokens)
        return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log()

    expected = brute_force(lumped(teacher), lumped(student)) * len(teacher)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert float(found) <= float(exact_kl(head(teacher), head(student))) + 1e-4
