import pytest
import torch

from crvq.errors import QuantizationError
from crvq.finetune.losses import exact_kl
from crvq.finetune.teacher import Teacher, student_of
from tests.architectures import build, tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "OPT", "GPT2"])
@pytest.mark.parametrize(("kind", "k"), [("hidden_states", 1), ("top_k", 96)])
def test_what_a_teacher_says_is_what_the_model_said(name, kind, k, tmp_path):
    """Also of a model that does more than apply its head (Gemma 2 caps its logits)."""
    model, windows = build(name), tokens(3, 12)
    teacher = Teacher(tmp_path, kind, k, CPU)
    assert teacher.missing(windows) == [0, 1, 2]
    student = student_of(model, windows[:1])
    with torch.no_grad():
        expected = [model(window[None]).logits[0] for window in windows]
    for index in range(3):
        teacher.learn(student, windows, index, torch.float32)
    assert teacher.missing(windows) == []
    other = torch.randn(24, expected[0].shape[-1])
    divergence = teacher.divergence([2, 0], student.head)
    for part in (slice(0, 24), slice(5, 17)):
        found = divergence(part, other[part])
        wanted = exact_kl(torch.cat([expected[2], expected[0]])[part], other[part])
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["hidden_states", "top_k"])
def test_a_model_does_not_diverge_from_itself(kind, tmp_path):
    model, windows = build("Llama"), tokens(2, 12)
    teacher, student = Teacher(tmp_path, kind, 5, CPU), student_of(model, windows[:1])
    teacher.learn(student, windows, 0, torch.float32)
    with torch.no_grad():
        logits = model(windows[:1]).logits[0]
    found = teacher.divergence([0], student.head)(slice(0, 12), logits)
    assert float(found) == pytest.approx(0, abs=1e-5)


def test_what_is_kept_outlives_the_model(tmp_path):
    """Files are read again; a quantized body does not change what was said, the head is kept."""
    model, windows = build("Llama"), tokens(1, 12)
    student = student_of(model, windows)
    Teacher(tmp_path, "hidden_states", 1, CPU).learn(student, windows, 0, torch.float32)
    with torch.no_grad():
        expected = model(windows).logits[0]
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        other = model(windows).logits[0]
    found = Teacher(tmp_path, "hidden_states", 1, CPU).divergence([0], student.head)
    assert torch.allclose(found(slice(0, 12), expected), torch.tensor(0.0), atol=1e-5)
    assert float(found(slice(0, 12), other)) > 0.1


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_file_that_cannot_be_read_is_one_clear_error_and_missing_afterwards(harm, tmp_path):
    model, windows = build("Llama"), tokens(1, 12)
    teacher, student = Teacher(tmp_path, "hidden_states", 1, CPU), student_of(model, windows)
    teacher.learn(student, windows, 0, torch.float32)
    (file,) = tmp_path.iterdir()
    if harm == "damaged":
        file.write_bytes(b"nothing")
    else:
        file.unlink()
    with pytest.raises(QuantizationError, match="Run the same command again"):
        teacher.divergence([0], student.head)
    assert teacher.missing(windows) == [0]


@pytest.mark.parametrize("kind", ["hidden_states", "top_k"])
def test_no_changed_byte_is_learned_from(kind, tmp_path):
    model, windows = build("Llama"), tokens(2, 12)
    teacher, student = Teacher(tmp_path, kind, 2, CPU), student_of(model, windows[:1])
    for index in (0, 1):
        teacher.learn(student, windows, index, torch.float32)
    first, second = sorted(tmp_path.iterdir())
    content = first.read_bytes()
    for place in range(0, len(content), 29):
        first.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert teacher.missing(windows) == [0]
        with pytest.raises(QuantizationError, match="window 0 are damaged or gone"):
            teacher.divergence([0], student.head)
    first.write_bytes(second.read_bytes())  # intact, but another window's
    assert teacher.missing(windows) == [0]
    with pytest.raises(QuantizationError, match="window 0 are damaged or gone"):
        teacher.divergence([0], student.head)
    teacher.learn(student, windows, 0, torch.float32)
    assert teacher.missing(windows) == []
