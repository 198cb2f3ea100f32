from crvq.cli.arguments import tidy_arguments


def test_flags_come_first_and_the_rest_keeps_its_order():
    assert tidy_arguments(["a=1", "-m", "b=2", "c=3"]) == ["-m", "a=1", "b=2", "c=3"]


def test_budgets_are_quoted_because_hydra_wants_strings_for_options():
    assert tidy_arguments(["budget=1,1.5"]) == ["budget='1','1.5'"]
    assert tidy_arguments(["budget=layout", "budget.bits=2"]) == ["budget=layout", "budget.bits=2"]
