import pytest

from crvq.finetune.end_to_end import microbatches


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_parts_of_a_step_give_the_mean_over_its_windows(size):
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    parts = microbatches(range(5), size)
    assert [index for part, _ in parts for index in part] == list(range(5))
    assert max(len(part) for part, _ in parts) == min(size, 5)
    shares = [share * sum(losses[i] for i in part) / len(part) for part, share in parts]
    assert sum(shares) / len(parts) == pytest.approx(sum(losses) / 5)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_processes_take_as_many_parts_each_and_find_the_same_mean(size, processes):
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    parts = microbatches(range(5), size, processes)
    assert len(parts) % processes == 0
    shares = [share * sum(losses[i] for i in part) / len(part) for part, share in parts]
    assert sum(shares) / len(parts) == pytest.approx(sum(losses) / 5)
