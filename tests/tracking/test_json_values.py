import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crvq.tracking.json_values import flatten, to_json


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_survives_json(value):
    back = float(json.loads(json.dumps(to_json(value), allow_nan=False)))
    assert back == value or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.float64("inf"), "Infinity"),
        (torch.tensor(2.0), 2.0),
        (Path("a/b"), "a/b"),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        pytest.param({"b", "a"}, ["a", "b"], id="set"),  # str(set) differs between processes
        ({1: True}, {"1": True}),
        (datetime(2025, 1, 2, tzinfo=UTC), "2025-01-02T00:00:00+00:00"),
    ],
    ids=str,
)
def test_other_values(value, expected):
    result = to_json(value)
    assert result == expected
    assert type(result) is type(expected)


def test_what_json_cannot_say_is_named():
    with pytest.raises(TypeError, match="object"):
        to_json({"a": [object()]})


def test_flatten():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, 2]}
    assert flatten(nested, separator="/") == {"a/b": 1, "a/c/d": [1, 2]}
