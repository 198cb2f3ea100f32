import pytest

from crvq.cli.arguments import tidy_arguments


def test_flags_come_first_and_the_rest_keeps_its_order():
    assert tidy_arguments(["a=1", "-m", "b=2", "c=3"]) == ["-m", "a=1", "b=2", "c=3"]


def test_flags_keep_their_values():
    tidied = tidy_arguments(["a=1", "--config-dir", "D", "b=2", "-m"])
    assert tidied == ["--config-dir", "D", "-m", "a=1", "b=2"]


@pytest.mark.parametrize(
    ("short", "written"),
    [
        ("budget=2.5", "budget.bits=2.5"),
        ("budget=1,1.5", "budget.bits=1,1.5"),
        ("budget=layout", "budget=layout"),
        ("budget.bits=2", "budget.bits=2"),
        ("tracking=wandb", "tracking=offline"),
    ],
)
def test_short_forms_are_written_out(short, written):
    assert tidy_arguments([short]) == [written]
