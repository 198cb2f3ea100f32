"""The command of a record composes to the configuration that the record holds."""

import shlex

import pytest

from crvq.cli.reproduce import _composed, command_of

COMMANDS = [
    "method=crvq_1bit crvq.critical_ratio=0.04 seed=3",
    "finetune=block_e2e calibration.samples=32",
    "model=gemma3-270m eval=three_texts method=aqlm experiment=a-b",
    "method=gptq gptq.bits=3 calibration.path=its.txt ~eval.perplexity.wikipedia",
]


@pytest.mark.parametrize("typed", COMMANDS)
def test_a_command_comes_back_as_it_was_typed(typed):
    overrides = tuple(shlex.split(typed))
    config = dict(_composed(overrides))
    command = command_of({"config": config})
    again = tuple(shlex.split(command)[2:])
    assert _composed(again) == config
    assert sorted(again) == sorted(overrides) or len(again) <= len(overrides)


def test_parts_that_older_records_do_not_have_keep_what_they_were():
    config = dict(_composed(("finetune=pv_e2e",)))
    config["finetune"] = {**config["finetune"]}
    end_to_end = dict(config["finetune"]["end_to_end"])
    del end_to_end["codes"]  # of a record from before codes could change
    config["finetune"]["end_to_end"] = end_to_end
    again = _composed(tuple(shlex.split(command_of({"config": config}))[2:]))
    assert again["finetune"]["end_to_end"]["codes"] is None


def test_a_value_may_hold_quotes_spaces_and_lines():
    text = {"separator": "it's\n\n{a: 1}, b"}
    config = dict(_composed(()))
    config["calibration"] = {**config["calibration"], **text}
    again = _composed(tuple(shlex.split(command_of({"config": config}))[2:]))
    assert again["calibration"]["separator"] == text["separator"]


def test_what_cannot_be_said_is_none():
    assert command_of({}) is None
    assert command_of({"config": {"method": "of_a_plugin", "method_params": {"a": 1}}}) is None
