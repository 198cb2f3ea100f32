"""Errors that a user can mend name the linear; bugs keep their own type and traceback."""

import pytest

from crvq.errors import QuantizationError
from crvq.vq.hessian import HessianError
from crvq.vq.storage import StorageRangeError
from tests.methods.linear_examples import random_linear
from tests.methods.method_checks import make


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


METHODS = [
    ("rtn", "crvq.methods.rtn.RtnMethod.quantize_linear"),
    ("gptq", "crvq.methods.gptq.GptqMethod.quantize_linear"),
    ("crvq", "crvq.methods.crvq.alternate"),
]


@pytest.mark.parametrize(("name", "place"), METHODS)
def test_a_bug_is_not_shown_as_a_users_error(name, place, monkeypatch):
    monkeypatch.setattr(place, raising(ValueError("zip() argument 2 is longer than argument 1")))
    with pytest.raises(ValueError, match="argument 2 is longer") as error:
        list(make(name).quantize_block(0, [random_linear()]))
    assert not isinstance(error.value, QuantizationError)


@pytest.mark.parametrize(("name", "place"), METHODS)
@pytest.mark.parametrize("kind", [HessianError, StorageRangeError])
def test_what_a_user_can_mend_names_the_linear(name, place, kind, monkeypatch):
    monkeypatch.setattr(place, raising(kind("something is not finite")))
    with pytest.raises(QuantizationError, match=r"layers\.0\.mlp\.up_proj: something is not"):
        list(make(name).quantize_block(0, [random_linear()]))
